//! `scale`: another number of pods.

use http::Method;
use serde_json::json;

use super::Context;
use crate::cli::Scale;
use crate::client::Call;
use crate::error::CtlError;
use crate::output;
use crate::resource::{expand, targets};
use crate::tree::{number, text};

/// Changes the size of everything that is meant.
pub(super) async fn run(context: &Context, options: &Scale) -> Result<(), CtlError> {
    let selection = &options.selection;
    let wanted = targets(selection, &context.namespace)?;
    let found = expand(&context.client, wanted, selection.selector.as_deref()).await?;
    if found.is_empty() {
        return Err(CtlError::Refused("no objects passed to scale".to_owned()));
    }
    let mut errors = Vec::new();
    for target in &found {
        let outcome = async {
            if !target.kind.has("scale") {
                return Err(CtlError::Refused(format!("{} cannot be scaled", target.title())));
            }
            let path = format!("{}/scale", target.path());
            let mut patch = json!({ "spec": { "replicas": options.replicas } });
            if let Some(expected) = options.current_replicas {
                let scale = context.client.json(Call::get(&path)).await?;
                let current = number(&scale, "/spec/replicas");
                if current != i64::from(expected) {
                    return Err(CtlError::Refused(format!(
                        "Expected replicas to be {expected}, was {current}"
                    )));
                }
                // Fails if the number changes in between.
                patch["metadata"] = json!({ "resourceVersion": text(&scale, "/metadata/resourceVersion") });
            }
            let call = Call::with(Method::PATCH, &path, "application/merge-patch+json", &patch);
            context.client.json(call).await
        };
        match outcome.await {
            Ok(_) => output::line(&format!("{} scaled", target.title()))?,
            Err(error) => errors.push(error),
        }
    }
    CtlError::all(errors)
}
