//! HTTPS to the node: one connection a request, which is what few requests need.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::error::CtlError;
use crate::kubeconfig::Access;
use crate::tree::text;

/// How long to try to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Asks for rows instead of objects, where the server can make them.
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
pub(crate) const JSON: &str = "application/json";

type BoxedBody = Pin<Box<dyn Body<Data = Bytes, Error = io::Error> + Send>>;

/// A node to talk to.
pub(crate) struct Client {
    server: String,
    host: String,
    port: u16,
    prefix: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<String>,
}

/// A request to be sent.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) accept: &'a str,
    /// Media type and bytes.
    pub(crate) body: Option<(&'a str, Vec<u8>)>,
}

impl<'a> Call<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            accept: JSON,
            body: None,
        }
    }

    pub(crate) fn with(method: Method, path: &'a str, media_type: &'a str, body: &Value) -> Self {
        Self {
            method,
            path,
            accept: JSON,
            body: Some((media_type, body.to_string().into_bytes())),
        }
    }

    pub(crate) fn accept(mut self, accept: &'a str) -> Self {
        self.accept = accept;
        self
    }
}

impl Client {
    pub(crate) fn new(access: &Access) -> Result<Self, CtlError> {
        let wrong = |why: String| CtlError::KubeconfigValue { what: "server", why };
        let uri: Uri = access
            .server
            .parse()
            .map_err(|error| wrong(format!("{:?}: {error}", access.server)))?;
        let host = uri
            .host()
            .ok_or_else(|| wrong(format!("{:?} has no host", access.server)))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong(format!("{:?} must begin with https://", access.server))),
        };
        let tls = if secure {
            let name = access.tls_server_name.clone().unwrap_or_else(|| bare.clone());
            let name = ServerName::try_from(name).map_err(|error| wrong(error.to_string()))?;
            Some((TlsConnector::from(Arc::new(tls_config(access)?)), name))
        } else {
            None
        };
        Ok(Self {
            server: access.server.clone(),
            host: bare,
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            tls,
            token: access.token.clone(),
        })
    }

    /// Sends a request and reads the JSON answer; a refusal is an error.
    pub(crate) async fn json(&self, call: Call<'_>) -> Result<Value, CtlError> {
        let what = format!("{} {}", call.method, call.path);
        let response = self.open(call).await?;
        self.whole(what, response).await
    }

    /// Sends a request and gives the answer as it comes; a refusal is an error.
    pub(crate) async fn open(&self, call: Call<'_>) -> Result<Response<Incoming>, CtlError> {
        let (media_type, body): (_, BoxedBody) = match call.body {
            Some((media_type, bytes)) => (
                Some(media_type),
                Box::pin(Full::new(Bytes::from(bytes)).map_err(|never| match never {})),
            ),
            None => (
                None,
                Box::pin(Full::new(Bytes::new()).map_err(|never| match never {})),
            ),
        };
        self.send(call.method, call.path, call.accept, media_type, body)
            .await
    }

    /// Sends what comes through a channel as a body; nothing more without an end breaks it off.
    pub(crate) async fn upload(&self, path: &str, pieces: mpsc::Receiver<Piece>) -> Result<Value, CtlError> {
        let body: BoxedBody = Box::pin(Upload { pieces, ended: false });
        let response = self
            .send(Method::POST, path, JSON, Some("application/x-tar"), body)
            .await?;
        self.whole(format!("POST {path}"), response).await
    }

    async fn whole(&self, what: String, response: Response<Incoming>) -> Result<Value, CtlError> {
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|source| self.broke(source))?
            .to_bytes();
        serde_json::from_slice(&bytes).map_err(|source| CtlError::Answer { what, source })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        media_type: Option<&str>,
        body: BoxedBody,
    ) -> Result<Response<Incoming>, CtlError> {
        let invalid = |error: http::Error| CtlError::Usage(format!("cannot ask for {path:?}: {error}"));
        let authority = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, authority)
            .header(header::ACCEPT, accept)
            .header(
                header::USER_AGENT,
                concat!("berthctl/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(media_type) = media_type {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        if let Some(token) = &self.token {
            let value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|error| {
                CtlError::KubeconfigValue {
                    what: "token",
                    why: error.to_string(),
                }
            })?;
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(body).map_err(invalid)?;
        let response = self.exchange(request).await?;
        for warning in response.headers().get_all(header::WARNING) {
            // 299 - "text"
            let text = warning.to_str().unwrap_or_default();
            let text = text
                .split_once('"')
                .map_or(text, |(_, rest)| rest.trim_end_matches('"'));
            eprintln!("Warning: {}", text.replace("\\\"", "\""));
        }
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
    }

    async fn exchange(&self, request: Request<BoxedBody>) -> Result<Response<Incoming>, CtlError> {
        let unreachable = |source| CtlError::Connect {
            server: self.server.clone(),
            source,
        };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
            .map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        match &self.tls {
            None => self.over(TokioIo::new(stream), request).await,
            Some((connector, name)) => {
                let secure = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(unreachable)?;
                self.over(TokioIo::new(secure), request).await
            }
        }
    }

    async fn over<T>(&self, io: T, request: Request<BoxedBody>) -> Result<Response<Incoming>, CtlError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(io).await.map_err(|source| self.broke(source))?;
        // Ends with the request's last byte; what goes wrong shows in the answer.
        tokio::spawn(connection);
        sender
            .send_request(request)
            .await
            .map_err(|source| self.broke(source))
    }

    /// Wraps a broken connection.
    pub(crate) fn broke(&self, source: hyper::Error) -> CtlError {
        CtlError::Http {
            server: self.server.clone(),
            source,
        }
    }

    async fn refusal(&self, response: Response<Incoming>) -> CtlError {
        let code = response.status();
        let bytes = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(source) => return self.broke(source),
        };
        let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let message = match text(&status, "/message") {
            "" if bytes.is_empty() => code.canonical_reason().unwrap_or("refused").to_owned(),
            "" => String::from_utf8_lossy(&bytes).trim().to_owned(),
            message => message.to_owned(),
        };
        let reason = match text(&status, "/reason") {
            "" if code == StatusCode::UNAUTHORIZED => "Unauthorized".to_owned(),
            reason => reason.to_owned(),
        };
        CtlError::Api {
            code: code.as_u16(),
            reason,
            message,
        }
    }
}

fn tls_config(access: &Access) -> Result<ClientConfig, CtlError> {
    let wrong = |what: &'static str, why: String| CtlError::KubeconfigValue { what, why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&access.authority) {
        let certificate = certificate.map_err(|error| wrong("certificate-authority", error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| wrong("certificate-authority", error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("certificate-authority", "it has no certificate".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("server", error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &access.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong("client-certificate", error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("client-key", error.to_string()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong("client-certificate", error.to_string()))
}

/// One piece of an upload.
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// A body fed by a thread that reads files.
struct Upload {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.pieces.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Piece::Data(data))) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Poll::Ready(Some(Piece::End)) => {
                self.ended = true;
                Poll::Ready(None)
            }
            // Half a file must not pass for a whole one.
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Err(io::Error::other("reading the image ended early"))))
            }
        }
    }
}

/// Lines of a body that goes on, such as a watch's.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        Self {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }

    /// The next JSON line; nothing at the end, however it came about.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Ok(value) = serde_json::from_slice(&line) {
                    return Some(value);
                }
                continue;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
                Some(Err(_)) | None => return None,
            }
        }
    }
}
