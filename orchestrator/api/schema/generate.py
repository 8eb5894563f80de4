#!/usr/bin/env python3
"""Writes types.txt: the structure of every API type that a served kind reaches.

usage: generate.py DEFINITIONS API_PROTOS APIMACHINERY_PROTOS > types.txt

DEFINITIONS          _definitions.json of the kubernetes-validate wheel (PyPI, Apache-2.0): the upstream
                     OpenAPI document, with merge keys.
API_PROTOS           a checkout of github.com/kubernetes/api: generated.proto gives the protobuf tags.
APIMACHINERY_PROTOS  a checkout of github.com/kubernetes/apimachinery.

To serve another kind add its root type to ROOTS and run this again.
"""
import json
import pathlib
import re
import sys

ROOTS = """
api.core.v1.{ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
  PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount}
api.apps.v1.{ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet}
api.authentication.v1.{SelfSubjectReview TokenRequest TokenReview}
api.authorization.v1.{LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview}
api.autoscaling.v1.{HorizontalPodAutoscaler Scale}
api.autoscaling.v2.{HorizontalPodAutoscaler}
api.batch.v1.{CronJob Job}
api.coordination.v1.{Lease}
api.discovery.v1.{EndpointSlice}
api.events.v1.{Event}
api.networking.v1.{Ingress IngressClass NetworkPolicy}
api.node.v1.{RuntimeClass}
api.policy.v1.{Eviction PodDisruptionBudget}
api.rbac.v1.{ClusterRole ClusterRoleBinding Role RoleBinding}
api.scheduling.v1.{PriorityClass}
api.storage.v1.{StorageClass}
apimachinery.pkg.apis.meta.v1.{DeleteOptions Status}
"""
SCALARS = {
    "Time": "Time",
    "MicroTime": "MicroTime",
    "Quantity": "Quantity",
    "IntOrString": "IntOrString",
    "FieldsV1": "any",
    "RawExtension": "any",
}
# Two types of the same short name: the second gets its group's name in front, or its version behind.
RENAMED = {
    "io.k8s.api.authentication.v1.UserInfo": "UserInfo",
    "io.k8s.api.autoscaling.v1.CrossVersionObjectReference": "CrossVersionObjectReferenceV1",
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler": "HorizontalPodAutoscalerV1",
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscalerSpec": "HorizontalPodAutoscalerSpecV1",
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscalerStatus": "HorizontalPodAutoscalerStatusV1",
    "io.k8s.api.discovery.v1.EndpointPort": "DiscoveryEndpointPort",
    "io.k8s.api.events.v1.Event": "EventsEvent",
    "io.k8s.api.events.v1.EventSeries": "EventsEventSeries",
    "io.k8s.api.rbac.v1.Subject": "RbacSubject",
    "io.k8s.api.storage.v1.TokenRequest": "StorageTokenRequest",
}


def roots():
    for package, names in re.findall(r"([\w.]+)\.\{([^}]*)\}", ROOTS):
        for name in names.split():
            yield f"io.k8s.{package}.{name}"


def read_protos(folders):
    """{(package, message): {field: (tag, message type)}}"""
    out = {}
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("generated.proto")):
            package, message = None, None
            for line in path.read_text().splitlines():
                if m := re.match(r"package ([\w.]+);", line):
                    package = m.group(1)
                elif m := re.match(r"message (\w+) \{", line):
                    message = out.setdefault((package, m.group(1)), {})
                elif m := re.match(r"\s+(?:(?:optional|repeated|required) )?(\S+(?: ?\S+>)?) (\w+) = (\d+)", line):
                    message[m.group(2)] = (m.group(3), m.group(1))
    return out


def short(name):
    return RENAMED.get(name, name.rsplit(".", 1)[1])


def reference(schema):
    ref = schema.get("$ref") or next((s["$ref"] for s in schema.get("allOf", []) if "$ref" in s), None)
    return ref and ref.rsplit("/", 1)[1]


def type_of(schema, seen):
    if name := reference(schema):
        base = short(name)
        if base in SCALARS:
            return SCALARS[base]
        if base == "JSON":
            return "any"
        seen.append(name)
        return base
    kinds = schema.get("type", "object")
    kind = next(k for k in ([kinds] if isinstance(kinds, str) else kinds) if k != "null")
    if kind == "array":
        return "[]" + type_of(schema["items"], seen)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return "map:" + type_of(inner, seen) if inner else "any"
    if kind == "integer":
        return schema.get("format", "int64")
    if kind == "string":
        return "bytes" if schema.get("format") == "byte" else "string"
    return {"boolean": "bool", "number": "double"}[kind]


def flags_of(schema, required):
    flags = ["!"] if required else []
    strategy = schema.get("x-kubernetes-patch-strategy", "").split(",")
    key = schema.get("x-kubernetes-patch-merge-key")
    if "merge" in strategy:
        flags.append(f"merge={key}" if key else "merge")
    if "retainKeys" in strategy:
        flags.append("retainKeys")
    if "replace" in strategy:
        flags.append("replace")
    listed = schema.get("x-kubernetes-list-type")
    if listed == "map":
        flags.append("map=" + "+".join(schema["x-kubernetes-list-map-keys"]))
    elif listed:
        flags.append(listed)
    if schema.get("x-kubernetes-map-type") == "atomic":
        flags.append("atomic")
    return flags


def proto_key(name):
    package, message = name.rsplit(".", 1)
    return "k8s.io." + package.removeprefix("io.k8s."), message


def tag_of(protos, key, field, properties):
    """The tag of a JSON field: 5, or 2.5 for a field of a struct that Go embeds with tag 2."""
    message = protos.get(key, {})
    for name, (tag, _) in message.items():
        if name.lower() == field.lower():
            return tag
    for name, (tag, kind) in message.items():
        if name not in properties and kind[0].isupper():
            if inner := tag_of(protos, (key[0], kind), field, properties):
                return f"{tag}.{inner}"
    return None


def main():
    definitions = json.load(open(sys.argv[1]))["$defs"]
    protos = read_protos(sys.argv[2:4])
    queue, done, blocks = list(roots()), {}, {}
    while queue:
        name = queue.pop()
        if name in done.values():
            continue
        if short(name) in done:
            sys.exit(f"two types named {short(name)}: {name}, {done[short(name)]}: add one to RENAMED")
        done[short(name)] = name
        schema = definitions[name]
        lines, required = [], schema.get("required", [])
        for field, sub in sorted(schema.get("properties", {}).items()):
            seen = []
            kind = type_of(sub, seen)
            queue += seen
            tag = tag_of(protos, proto_key(name), field, schema["properties"]) or "0"
            if tag == "0" and field not in ("apiVersion", "kind"):
                print(f"no tag for {name}.{field}", file=sys.stderr)
            lines.append(" ".join([f" {field}", str(tag), kind, *flags_of(sub, field in required)]))
        blocks[short(name)] = [f"{short(name)} {name}", *lines]
    print("# Made by schema/generate.py from the upstream OpenAPI document and protobuf files; do not edit.")
    print("# TYPE UPSTREAM-NAME, then a line a field: NAME TAG TYPE FLAGS (! is required).")
    for name in sorted(blocks):
        print("\n".join(blocks[name]))


main()
