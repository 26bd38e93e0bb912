use bolero::check;
use sendarix_webhooks::SendarixEvent;

/// Any bytes are an event, or an error that says where; an event can be kept and read again.
#[test]
fn decode() {
    check!().for_each(|body: &[u8]| match SendarixEvent::decode(body.to_vec()) {
        Ok(event) => {
            assert_eq!(event.body(), body);
            assert!(!event.event_id.is_empty() && event.event_id.len() <= 255);
            if let Some(data) = event.data() {
                assert!(serde_json::from_str::<serde::de::IgnoredAny>(data).is_ok(), "{data}");
            }
            let kept = serde_json::to_vec(&event).unwrap();
            assert_eq!(serde_json::from_slice::<SendarixEvent>(&kept).unwrap(), event);
            // What is read as a tree means the same.
            if let Ok(tree) = serde_json::from_slice::<serde_json::Value>(body) {
                assert_eq!(tree["message_id"], *event.message_id);
                assert_eq!(tree["recipient"], *event.recipient);
                let named = tree["event_id"].as_str().filter(|id| !id.is_empty());
                assert!(named.map_or_else(|| event.event_id.starts_with("sha256:"), |id| id == event.event_id));
                let name = tree.get("event_type").or_else(|| tree.get("event")).unwrap();
                assert_eq!(name, event.type_name());
            }
        }
        Err(error) => {
            let _ = (error.to_string(), error.place(), error.kind().to_string());
        }
    });
}
