//! Ids that are the same each time: of events whose producers give none, or no UUID. Pure.
//!
//! Everything is UUIDv5 (RFC 9562) in the OID namespace, which is what Bloodbank's own producers use.

use uuid::Uuid;

/// The UUID that stands for an id: itself if it is one, else the UUIDv5 of the text.
///
/// Event ids and correlation ids go the same way, so that an event is still found by the ids of its descendants.
#[must_use]
pub fn normalise(id: &str) -> Uuid {
    Uuid::parse_str(id).unwrap_or_else(|_| of_bytes(id.as_bytes()))
}

/// The id of a message that has none: the same bytes delivered again have the same one.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, bytes)
}

/// The id of the one event of this type about `key`, whoever publishes it and however often.
#[must_use]
pub fn deterministic(event_type: &str, key: &str) -> Uuid {
    of_bytes(format!("bloodbank:{event_type}:{key}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a3_uuids_are_kept_and_other_ids_become_the_same_uuid_each_time() {
        let id = "0193b1f2-7d7a-7c3e-9a51-1b2c3d4e5f60";
        assert_eq!(normalise(id).to_string(), id);
        assert_eq!(normalise(&id.to_uppercase()).to_string(), id);
        // Checked with Python: uuid.uuid5(uuid.NAMESPACE_OID, "req-abc123").
        assert_eq!(normalise("req-abc123").to_string(), "cce7903b-0d52-5443-8ef4-9062f8cadcf6");
        assert_eq!(normalise("req-abc123"), normalise("req-abc123"));
        assert_ne!(normalise("req-abc123"), normalise("req-abc124"));
        assert_eq!(normalise("req-abc123").get_version_num(), 5);
    }

    #[test]
    fn a20_deterministic_ids_are_those_of_the_other_producers() {
        // Checked with Python: uuid.uuid5(uuid.NAMESPACE_OID, "bloodbank:fireflies.transcript.upload:k").
        let id = deterministic("fireflies.transcript.upload", "k");
        assert_eq!(id.to_string(), "e99c41c2-fd9b-525f-b08e-2b245f95b07e");
        assert_ne!(id, deterministic("fireflies.transcript.upload", "l"));
    }
}
