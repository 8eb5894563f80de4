//! GET pods/log: a container's output as text, for as long as it is followed.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use berth_api::status::ApiError;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use super::request::{Query, Target};
use super::{Api, respond, store_error};
use crate::node::logs::{self, Options};

/// Reads `PodLogOptions` from the query.
fn options(query: &Query, now: Timestamp) -> Result<Options, ApiError> {
    let positive = |name: &str, least: i64| match query.number(name)? {
        Some(number) if number < least => Err(ApiError::bad_request(format!(
            "{name}: Invalid value: {number}: must be greater than or equal to {least}"
        ))),
        number => Ok(number),
    };
    let seconds = positive("sinceSeconds", 1)?;
    let time = query.text("sinceTime").map(|text| {
        text.parse::<Timestamp>().map_err(|_| {
            ApiError::bad_request(format!("sinceTime: Invalid value: {text:?}: must be RFC 3339"))
        })
    });
    if seconds.is_some() && time.is_some() {
        return Err(ApiError::bad_request(
            "sinceSeconds: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    let since = match seconds {
        Some(seconds) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
        None => time.transpose()?,
    };
    match query.text("stream") {
        None | Some("All") => {}
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "stream: Unsupported value: {other:?}: supported values: \"All\""
            )));
        }
    }
    Ok(Options {
        container: query.text("container").map(str::to_owned),
        follow: query.flag("follow")?,
        previous: query.flag("previous")?,
        since,
        timestamps: query.flag("timestamps")?,
        tail: positive("tailLines", 0)?.map(i64::cast_unsigned),
        limit_bytes: positive("limitBytes", 1)?.map(i64::cast_unsigned),
    })
}

impl Api {
    /// GET of a pod's log.
    pub(super) fn log(&self, target: &Target, query: &Query) -> Result<Response, ApiError> {
        let options = options(query, Timestamp::now())?;
        let pod = self.store.require(&target.key()?).map_err(store_error)?;
        let pieces = logs::stream(&self.store, &self.run_dir, &self.data_dir, &pod, options)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let shutdown = self.shutdown.clone();
        let pieces = stream::unfold((pieces, shutdown), |(mut pieces, mut shutdown)| async move {
            let piece: Option<Bytes> = tokio::select! {
                piece = pieces.recv() => piece,
                _ = shutdown.wait_for(|stop| *stop) => None,
            };
            piece.map(|piece| (Ok::<_, Infallible>(piece), (pieces, shutdown)))
        });
        Ok(respond::text(
            StatusCode::OK,
            "text/plain",
            Body::from_stream(pieces),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let parse = |query: &str| {
            let uri: http::Uri = format!("/x?{query}").parse().unwrap();
            options(&Query::of(&uri).unwrap(), Timestamp::from_second(1000).unwrap())
        };
        let good = parse("container=a&follow=true&tailLines=3&sinceSeconds=10&limitBytes=5").unwrap();
        assert_eq!(
            (good.container.as_deref(), good.follow, good.tail),
            (Some("a"), true, Some(3))
        );
        assert_eq!(good.since, Some(Timestamp::from_second(990).unwrap()));
        for bad in [
            "tailLines=-1",
            "sinceSeconds=0",
            "limitBytes=x",
            "sinceTime=y",
            "follow=maybe",
            "stream=Stderr",
        ] {
            assert_eq!(parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
