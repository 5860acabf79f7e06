//! Domains of event types: the words and colours that dashboards show them with. Pure.

/// A group of event types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Domain {
    /// The word in the event type.
    pub key: &'static str,
    /// For people.
    pub label: &'static str,
    /// Red, green, blue.
    pub colour: [u8; 3],
}

const fn domain(key: &'static str, label: &'static str, rgb: u32) -> Domain {
    let [_, red, green, blue] = rgb.to_be_bytes();
    Domain { key, label, colour: [red, green, blue] }
}

/// Everything without a domain of its own.
pub const UNKNOWN: Domain = domain("unknown", "Unknown", 0x006B_7280);

/// All domains with a name: first those of Candybar with its colours, then those that it shows in grey.
pub const ALL: [Domain; 21] = [
    domain("agent", "Agent", 0x003B_82F6),
    domain("artifact", "Artifact", 0x0010_B981),
    domain("fireflies", "Fireflies", 0x00F5_9E0B),
    domain("github", "GitHub", 0x0063_66F1),
    domain("llm", "LLM", 0x008B_5CF6),
    domain("theboard", "TheBoard", 0x00EC_4899),
    domain("workflow", "Workflow", 0x0014_B8A6),
    domain("voice", "Voice", 0x0022_C55E),
    domain("transcription", "Transcription", 0x0084_CC16),
    domain("tts", "Speech", 0x00A3_E635),
    domain("session", "Session", 0x0006_B6D4),
    domain("command", "Command", 0x00F9_7316),
    domain("system", "System", 0x0094_A3B8),
    domain("jelmore", "Jelmore", 0x00D9_46EF),
    domain("tool", "Tool", 0x00EA_B308),
    domain("heartbeat", "Heartbeat", 0x0078_716C),
    domain("audio", "Audio", 0x004A_DE80),
    domain("conversation", "Conversation", 0x000E_A5E9),
    domain("cli", "CLI", 0x00A8_55F7),
    domain("bus", "Bus", 0x00F4_3F5E),
    domain("up", "Up", 0x0060_A5FA),
];

/// The word that says the domain: the first one, or the third one of a CloudEvents type (`bloodbank.v1.audio.…`),
/// where the first two are the same in all.
#[must_use]
pub fn key(event_type: &str) -> &str {
    let mut words = event_type.split('.');
    let first = words.next().unwrap_or_default();
    let is_version = |word: &str| {
        word.strip_prefix('v')
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    match (first, words.next(), words.next()) {
        ("bloodbank", Some(version), Some(third)) if is_version(version) => third,
        _ => first,
    }
}

/// The domain of an event type; [`UNKNOWN`] where it has none with a name.
#[must_use]
pub fn of(event_type: &str) -> Domain {
    let key = key(event_type);
    ALL.into_iter().find(|domain| domain.key == key).unwrap_or(UNKNOWN)
}

/// Whether the type says that something went wrong.
#[must_use]
pub fn is_error(event_type: &str) -> bool {
    event_type.contains("error") || event_type.contains("failed")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_domain_is_the_first_word_or_the_third_of_a_cloud_event() {
        for (event_type, expected) in [
            ("voice.transcription.completed", "voice"),
            ("agent.tonny.started", "agent"),
            ("bloodbank.v1.conversation.turn.completed", "conversation"),
            ("bloodbank.v12.audio.file.received", "audio"),
            ("bloodbank.evt.x", "unknown"),
            ("bloodbank.v1", "unknown"),
            ("incident.postmortem.scheduled", "unknown"),
            ("llm", "llm"),
            ("", "unknown"),
        ] {
            assert_eq!(of(event_type).key, expected, "{event_type}");
        }
        assert_eq!(key("incident.postmortem.scheduled"), "incident");
    }

    #[test]
    fn colours_are_candybars_and_all_differ() {
        assert_eq!(of("agent.x").colour, [0x3B, 0x82, 0xF6]);
        assert_eq!(of("nobody.x").colour, [0x6B, 0x72, 0x80]);
        let keys: BTreeSet<&str> = ALL.iter().map(|domain| domain.key).collect();
        let colours: BTreeSet<[u8; 3]> = ALL.iter().chain([&UNKNOWN]).map(|domain| domain.colour).collect();
        assert_eq!((keys.len(), colours.len()), (ALL.len(), ALL.len() + 1));
    }

    #[test]
    fn errors_are_told_by_their_names() {
        assert!(is_error("agent.error") && is_error("workflow.step.failed"));
        assert!(!is_error("agent.session.started"));
    }
}
