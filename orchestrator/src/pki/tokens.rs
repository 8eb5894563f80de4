//! Tokens of ServiceAccounts: JSON web tokens (RFC 7519) signed with ES256, that say for whom, for how long, and to
//! which account and pod they are bound. With either gone, a token is worth nothing.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{PkiError, made, read, write};

/// Who issues tokens, and for whom they are unless somebody else is named.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Bytes of a token that are looked at.
const LONGEST: usize = 16 << 10;

/// An object that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// The part of the claims that is Kubernetes' own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Bound,
    /// The pod that the token was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The Secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    /// The node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    pub aud: Vec<String>,
    /// End, in seconds of Unix time.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// By whom.
    pub iss: String,
    /// Its own name.
    pub jti: String,
    /// The account.
    #[serde(rename = "kubernetes.io")]
    pub private: Private,
    /// Beginning.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

impl Claims {
    /// Claims of an account from `now` on.
    pub fn new(private: Private, audiences: Vec<String>, seconds: i64, now: Timestamp) -> Self {
        let now = now.as_second();
        Self {
            aud: audiences,
            exp: now.saturating_add(seconds),
            iat: now,
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                private.namespace, private.serviceaccount.name
            ),
            nbf: now,
            private,
        }
    }
}

/// Why a token is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64, or no claims in it.
    #[error("the token is no JSON web token of a ServiceAccount")]
    Malformed,
    /// Signed by somebody else.
    #[error("the token is not signed by this node's key")]
    Signature,
    /// Of another issuer.
    #[error("the token is of another issuer")]
    Issuer,
    /// Over.
    #[error("the token has expired")]
    Expired,
    /// Not begun.
    #[error("the token is not valid yet")]
    Early,
}

/// Why a token could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sign a token")]
pub struct SigningError;

/// Makes and checks tokens.
#[derive(Debug)]
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
}

impl Tokens {
    /// Reads the key in the folder of keys, or makes it.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join("sa.key");
        let unusable = || PkiError::Unusable {
            path: path.clone(),
            what: "key",
        };
        let pair = if let Some(text) = read(&path)? {
            KeyPair::from_pem(&text).map_err(|_| unusable())?
        } else {
            let pair = made("the key for tokens", KeyPair::generate())?;
            write(&path, &pair.serialize_pem())?;
            pair
        };
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &pair.serialize_der(),
            &SystemRandom::new(),
        )
        .map_err(|_| unusable())?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        Ok(Self {
            key_id: URL_SAFE_NO_PAD.encode(digest.as_ref()),
            key,
        })
    }

    /// The signed token.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn sign(&self, claims: &Claims) -> Result<String, SigningError> {
        let head = json!({"alg": "ES256", "kid": self.key_id}).to_string();
        let body = serde_json::to_string(claims).map_err(|_| SigningError)?;
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head),
            URL_SAFE_NO_PAD.encode(body)
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| SigningError)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// Checks signature, issuer and time; what it is bound to and for whom it is are the caller's to check.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.len() > LONGEST {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (head, body) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed);
        let head: serde_json::Value =
            serde_json::from_slice(&decode(head)?).map_err(|_| TokenError::Malformed)?;
        if head["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&decode(body)?).map_err(|_| TokenError::Malformed)?;
        let now = now.as_second();
        if claims.iss != ISSUER {
            Err(TokenError::Issuer)
        } else if claims.exp <= now {
            Err(TokenError::Expired)
        } else if claims.nbf > now {
            Err(TokenError::Early)
        } else {
            Ok(claims)
        }
    }
}

/// Beginning and end of a token, unchecked: for its holder, who wants to know when he needs another.
pub fn lifetime(token: &str) -> Option<(i64, i64)> {
    let body = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
    Some((claims.iat, claims.exp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(seconds: i64, now: Timestamp) -> Claims {
        let private = Private {
            namespace: "ns".into(),
            serviceaccount: Bound {
                name: "robot".into(),
                uid: "u".into(),
            },
            pod: None,
            secret: None,
            node: None,
        };
        Claims::new(private, vec![ISSUER.to_owned()], seconds, now)
    }

    #[test]
    fn tokens_say_what_they_said_until_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let now = Timestamp::from_second(1_000_000).unwrap();
        let claims = claims(600, now);
        let token = tokens.sign(&claims).unwrap();
        assert_eq!(tokens.verify(&token, now), Ok(claims.clone()));
        assert_eq!(claims.sub, "system:serviceaccount:ns:robot");
        assert_eq!(lifetime(&token), Some((1_000_000, 1_000_600)));
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(tokens.verify(&token, at(1_000_600)), Err(TokenError::Expired));
        assert_eq!(tokens.verify(&token, at(999_999)), Err(TokenError::Early));
        // The same key after a restart, another one elsewhere.
        assert!(Tokens::open(dir.path()).unwrap().verify(&token, now).is_ok());
        let other = tempfile::tempdir().unwrap();
        let stranger = Tokens::open(other.path()).unwrap();
        assert_eq!(stranger.verify(&token, now), Err(TokenError::Signature));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let now = Timestamp::from_second(1_000_000).unwrap();
        let good = tokens.sign(&claims(600, now)).unwrap();
        let (signed, _) = good.rsplit_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let body = good.split('.').nth(1).unwrap();
        for bad in [
            String::new(),
            "a.b".into(),
            "a.b.c".into(),
            format!("{signed}."),
            format!("{none}.{body}."),
            good.replace('.', ".x"),
            "x".repeat(LONGEST + 1),
        ] {
            assert!(tokens.verify(&bad, now).is_err(), "{bad}");
        }
        std::fs::write(dir.path().join("sa.key"), "no key").unwrap();
        assert!(
            Tokens::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("sa.key")
        );
    }
}
