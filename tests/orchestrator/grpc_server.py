# A gRPC server with the health service: the state of each service is a word in a file of its name in
# /state ("default" for the server as a whole). Arguments: "address port", with a key and certificate for TLS.
import os, sys, time
from concurrent import futures
import grpc

STATUS = {"UNKNOWN": 0, "SERVING": 1, "NOT_SERVING": 2}


def check(request, context):
    name = request[2:].decode() if request else "default"
    try:
        word = open("/state/" + name).read().strip()
    except FileNotFoundError:
        context.abort(grpc.StatusCode.NOT_FOUND, "no service " + name)
    if word == "SLOW":
        time.sleep(5)
    return bytes([8, STATUS.get(word, 1)])


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)} if "nohealth" not in sys.argv else {}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)])
address = "0.0.0.0:" + sys.argv[1]
if "tls" in sys.argv:
    pair = (open("/tls/key.pem", "rb").read(), open("/tls/cert.pem", "rb").read())
    server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
else:
    server.add_insecure_port(address)
server.start()
print("serving", flush=True)
server.wait_for_termination()
