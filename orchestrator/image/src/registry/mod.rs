//! Registries (OCI distribution specification 1.1): how they are reached, and what they are asked.
//!
//! ```text
//! config.rs       registries.conf: mirrors, insecure and blocked registries
//! credentials.rs  config.json and pull secrets; challenge.rs what a registry wants to see
//! session.rs      one repository: redirects, documents, blobs; authenticate.rs passwords, tokens
//! http.rs         one thread's connections; connect.rs proxy, TCP, TLS; tls.rs certificates
//! ```

mod authenticate;
mod body;
mod challenge;
mod config;
mod connect;
mod credentials;
mod error;
mod http;
mod session;
mod tls;
mod url;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use body::Content;
pub use config::Registries;
pub(crate) use config::Source;
pub use credentials::{Credential, Credentials, CredentialsError};
pub use error::RegistryError;
pub(crate) use http::Http;
pub(crate) use session::{Access, Call, Fetched, Session, location};
pub(crate) use url::{Origin, Url, encoded};

/// TLS settings of one transfer, read once a registry and dropped with the transfer.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    registries: &'a Registries,
    insecure: Vec<String>,
    made: Mutex<BTreeMap<Origin, Arc<rustls::ClientConfig>>>,
}

impl<'a> Settings<'a> {
    /// For these places.
    pub(crate) fn new(registries: &'a Registries, sources: &[Source]) -> Self {
        Self {
            registries,
            insecure: sources
                .iter()
                .filter(|source| source.insecure)
                .map(|source| source.authority.clone())
                .collect(),
            made: Mutex::default(),
        }
    }

    pub(crate) fn tls(&self, origin: &Origin) -> Result<Arc<rustls::ClientConfig>, RegistryError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(origin) {
            return Ok(Arc::clone(config));
        }
        let authority = origin.authority();
        let verify = !self
            .insecure
            .iter()
            .any(|insecure| Origin::of(insecure, true).is_ok_and(|insecure| insecure == *origin));
        let config = tls::config(&authority, &self.registries.certificates, verify)?;
        made.insert(origin.clone(), Arc::clone(&config));
        Ok(config)
    }
}
