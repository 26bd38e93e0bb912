//! What an event costs on the wire.

use crate::support::{Backend, Instance, Kind, Proxy, Sent};

const EVENTS: usize = 100;

/// A claim and a completion: no letter is asked for, no connection is tested, nothing is prepared.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_takes_two_round_trips_and_a_copy_one() {
    for kind in Kind::SERVERS {
        let backend = Backend::start(kind);
        let proxy = Proxy::start(backend.addr()).await;
        let instance = Instance::shared_store(&backend.url_at(proxy.port));
        // Connecting, making the tables, handing over the scripts, looking at the server's settings, and the purge that the
        // first completion begins.
        for event in 0..EVENTS {
            assert_eq!(instance.send(&format!("evt_before_{event}")).await, Sent::Answered(200));
        }
        for expected in [2, 1] {
            let before = proxy.round_trips();
            for event in 0..EVENTS {
                assert_eq!(instance.send(&format!("evt_{event}")).await, Sent::Answered(200));
            }
            assert_eq!(proxy.round_trips() - before, EVENTS * expected, "{kind:?}");
        }
    }
}
