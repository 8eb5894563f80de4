//! Images for containers: finding them in the store, and what they say about their programs.

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

/// The image of a container; it was pulled before if it is to be pulled.
///
/// # Errors
/// [`ImageError`].
pub fn find(images: &ImageStore, container: &api::Container) -> Result<Image, ImageError> {
    let name = container.image.clone().unwrap_or_default();
    let found = images.resolve(&name).map_err(|source| ImageError::Store {
        name: name.clone(),
        source,
    })?;
    found.ok_or_else(|| missing(&name, container.image_pull_policy.as_deref()))
}

fn missing(name: &str, policy: Option<&str>) -> ImageError {
    if policy == Some("Never") {
        return ImageError::Missing {
            reason: "ErrImageNeverPull",
            text: format!(
                "Container image {name:?} is not present with pull policy of Never, and no registry is asked: see the node's images with: berthctl image list; import it with: berthctl image import FILE"
            ),
        };
    }
    ImageError::Missing {
        reason: "ErrImagePull",
        text: format!("image {name:?} was removed before the container could be created: it is pulled again"),
    }
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

/// A signal by number, or by name with or without SIG; those for programs' own use are counted from both ends.
pub fn parse_signal(text: &str) -> Option<i32> {
    let text = text.trim();
    let counted = |prefix: &str| text.strip_prefix(prefix)?.parse::<i32>().ok();
    match text {
        "SIGRTMIN" => return Some(nix::libc::SIGRTMIN()),
        "SIGRTMAX" => return Some(nix::libc::SIGRTMAX()),
        _ => {}
    }
    if let Some(number) = counted("SIGRTMIN+") {
        return Some(nix::libc::SIGRTMIN() + number);
    }
    if let Some(number) = counted("SIGRTMAX-") {
        return Some(nix::libc::SIGRTMAX() - number);
    }
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
        for (policy, reason, way_out) in [
            (Some("Never"), "ErrImageNeverPull", "berthctl image import"),
            (Some("IfNotPresent"), "ErrImagePull", "pulled again"),
        ] {
            let ImageError::Missing { reason: have, text } = missing("shop:v1", policy) else {
                panic!("another error");
            };
            assert_eq!(have, reason);
            assert!(text.contains("shop:v1") && text.contains(way_out), "{text}");
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
