//! Images for containers: they are imported by people, there is nothing to pull from.

use berth_image::{Image, ImageStore};
use k8s_openapi::api::core::v1 as api;

use super::spec::ImageSettings;

/// Why a container has no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is not there.
    #[error("{text}")]
    Missing {
        /// The reason as kubelet names it.
        reason: &'static str,
        /// The whole message.
        text: String,
    },
    /// The name cannot be understood, or the store is damaged.
    #[error("find image {name}")]
    Store {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: berth_image::StoreError,
    },
}

/// The image of a container. `failures` is how often it was not found before.
///
/// # Errors
/// [`ImageError`].
pub fn find(images: &ImageStore, container: &api::Container, failures: u32) -> Result<Image, ImageError> {
    let name = container.image.clone().unwrap_or_default();
    let found = images.resolve(&name).map_err(|source| ImageError::Store {
        name: name.clone(),
        source,
    })?;
    found.ok_or_else(|| missing(&name, container.image_pull_policy.as_deref(), failures))
}

fn missing(name: &str, policy: Option<&str>, failures: u32) -> ImageError {
    let hint = "import it with: berthctl image import FILE";
    if policy == Some("Never") {
        let text = format!("Container image {name:?} is not present with pull policy of Never: {hint}");
        return ImageError::Missing {
            reason: "ErrImageNeverPull",
            text,
        };
    }
    let (reason, start) = if failures == 0 {
        ("ErrImagePull", "")
    } else {
        ("ImagePullBackOff", "Back-off pulling image: ")
    };
    let text = format!("{start}image {name:?} is not on this node, which pulls from no registry: {hint}");
    ImageError::Missing { reason, text }
}

/// What the image says about its program.
pub fn settings(image: &Image) -> ImageSettings {
    let config = image.config.config().as_ref();
    let list = |value: Option<&Vec<String>>| value.cloned().unwrap_or_default();
    ImageSettings {
        entrypoint: list(config.and_then(|c| c.entrypoint().as_ref())),
        cmd: list(config.and_then(|c| c.cmd().as_ref())),
        env: list(config.and_then(|c| c.env().as_ref())),
        working_dir: config.and_then(|c| c.working_dir().clone()).unwrap_or_default(),
    }
}

/// The image's `User`; empty for root.
pub fn user(image: &Image) -> String {
    image
        .config
        .config()
        .as_ref()
        .and_then(|c| c.user().clone())
        .unwrap_or_default()
}

/// The number of the image's `StopSignal`; SIGTERM without one.
pub fn stop_signal(image: &Image) -> i32 {
    let text = image
        .config
        .config()
        .as_ref()
        .and_then(|c| c.stop_signal().clone())
        .unwrap_or_default();
    parse_signal(&text).unwrap_or(nix::libc::SIGTERM)
}

/// A signal by number, or by name with or without SIG.
fn parse_signal(text: &str) -> Option<i32> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_way_out() {
        for (policy, failures, reason) in [
            (Some("Never"), 0, "ErrImageNeverPull"),
            (Some("IfNotPresent"), 0, "ErrImagePull"),
            (None, 3, "ImagePullBackOff"),
        ] {
            let ImageError::Missing { reason: have, text } = missing("shop:v1", policy, failures) else {
                panic!("another error");
            };
            assert_eq!(have, reason);
            assert!(
                text.contains("shop:v1") && text.contains("berthctl image import"),
                "{text}"
            );
        }
    }

    #[test]
    fn signals() {
        assert_eq!(parse_signal("SIGQUIT"), Some(3));
        assert_eq!(parse_signal("term"), Some(15));
        assert_eq!(parse_signal("9"), Some(9));
        assert_eq!(parse_signal("99"), None);
        assert_eq!(parse_signal(""), None);
    }
}
