//! The events of a task, as containerd's bus takes them.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{self, MessageField};
use containerd_shim_protos::shim::event::Envelope;

/// The present time.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stamp = Timestamp::new();
    stamp.seconds = since.as_secs() as i64;
    stamp.nanos = since.subsec_nanos() as i32;
    stamp
}

/// A message with its type's name, as containerd's typeurl package spells it.
///
/// # Errors
/// [`protobuf::Error`] if it cannot be encoded.
pub fn any(name: &'static str, message: &impl protobuf::Message) -> Result<Any, protobuf::Error> {
    let mut any = Any::new();
    name.clone_into(&mut any.type_url);
    any.value = message.write_to_bytes()?;
    Ok(any)
}

/// An event for the bus.
pub struct Event {
    /// Its topic.
    pub topic: &'static str,
    /// Its message.
    pub message: Any,
}

impl Event {
    /// Puts the event into an envelope with the present time.
    pub fn envelope(self, namespace: &str) -> Envelope {
        let mut envelope = Envelope::new();
        envelope.set_timestamp(now());
        namespace.clone_into(&mut envelope.namespace);
        self.topic.clone_into(&mut envelope.topic);
        envelope.event = MessageField::some(self.message);
        envelope
    }
}
