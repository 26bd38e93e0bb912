//! One endpoint, several destinations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sendarix_webhooks::ConfigError;
use sendarix_webhooks::destination::{Destination, FanOut, FanOutError, JsonLines};
use sendarix_webhooks::inbox::{Inbox, RedriveErrorKind};
use sendarix_webhooks::testing::{Sample, SimulatedRequest, Simulation};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Outcome, Receiver, UnknownTypes};
use tokio::sync::Semaphore;

use crate::support::{Connection, Endpoint, FaultyStores, Front, PATIENCE, Post, eventually, redrive_all, secret};

/// Counts what it has taken, and fails as long as it is told to.
#[derive(Clone, Default)]
struct Counting {
    taken: Arc<Mutex<HashMap<String, usize>>>,
    fails: Arc<AtomicBool>,
}

impl Counting {
    fn destination(&self) -> impl Destination {
        let counting = self.clone();
        move |delivery: Delivery| {
            let counting = counting.clone();
            async move {
                if counting.fails.load(Ordering::SeqCst) {
                    return Err(HandlerError::retry("it fails"));
                }
                *counting.taken.lock().unwrap().entry(delivery.event().event_id.clone()).or_default() += 1;
                Ok(())
            }
        }
    }

    fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    fn taken(&self) -> HashMap<String, usize> {
        self.taken.lock().unwrap().clone()
    }
}

fn receiver(stores: &FaultyStores) -> Receiver {
    Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone()).build().unwrap()
}

async fn endpoint(receiver: &Receiver, fan_out: &FanOut) -> Endpoint {
    let handler = fan_out.handler();
    Endpoint::of_receiver(Front::ANY, receiver.clone(), handler).await
}

fn open(id: &str) -> Vec<u8> {
    Sample::new(EventType::Open).event_id(id).body()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_four_fails_for_a_while_and_each_gets_every_event_once() {
    let receiver = receiver(&FaultyStores::default());
    let counting: [Counting; 4] = Default::default();
    let builder = counting.iter().zip(["billing", "crm", "warehouse", "alerts"]);
    let fan_out = builder
        .fold(FanOut::builder(receiver.inbox()), |builder, (counting, name)| builder.to(name, counting.destination()));
    let endpoint = endpoint(&receiver, &fan_out.build().unwrap()).await;
    let addr = endpoint.addr;
    counting[1].fail(true);
    let (failing, answers) = (counting[1].clone(), Arc::new(AtomicUsize::new(0)));
    let send = move |request: SimulatedRequest| {
        // It is mended in the middle of it all.
        failing.fail(answers.fetch_add(1, Ordering::SeqCst) < 300);
        async move {
            let post = Post { headers: Vec::new(), ..Post::signed(&request.body) };
            let post = request.headers.iter().fold(post, |post, (name, value)| post.with(name, value.as_bytes()));
            let post = post.with("host", "localhost").with("content-length", request.body.len().to_string());
            Ok::<u16, String>(Connection::open(addr).await.exchange(&post.bytes()).await.status)
        }
    };
    let bodies: Vec<Vec<u8>> = (0..200).map(|number| open(&format!("evt_{number}"))).collect();
    let simulation = Simulation::new(secret()).compress(1e4).lose_answers(0.1).duplicate(0.1);
    let ledger = simulation.run(bodies, send).await;
    assert_eq!(ledger.given_up(), 0, "{ledger}");
    for counting in &counting {
        let taken = counting.taken();
        assert_eq!(taken.len(), 200, "{ledger}");
        assert!(taken.values().all(|count| *count == 1), "{ledger}");
    }
}

#[tokio::test]
async fn a_failure_names_the_destination_and_no_other_runs_again() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    let [good, bad] = <[Counting; 2]>::default();
    let fan_out =
        FanOut::builder(receiver.inbox()).to("good", good.destination()).to("bad", bad.destination()).build().unwrap();
    let endpoint = endpoint(&receiver, &fan_out).await;
    bad.fail(true);
    for _ in 0..3 {
        endpoint.post(&open("evt_1")).await.assert_is(503, "not processed; deliver again");
    }
    let letters = stores.letters();
    let of = |name: &str| letters.iter().find(|letter| letter.key.endpoint() == name).unwrap();
    // None of the whole event, which would be news for every destination if it was redriven long after.
    assert_eq!(letters.len(), 1);
    assert_eq!((of("default/bad").error.as_str(), of("default/bad").attempts), ("it fails", 3));
    assert_eq!(of("default/bad").signature, None, "only the whole request was signed");
    bad.fail(false);
    assert_eq!(endpoint.post(&open("evt_1")).await.status, 200);
    assert_eq!((good.taken()["evt_1"], bad.taken()["evt_1"]), (1, 1));
    assert_eq!(stores.letters(), [], "all resolved");
}

#[tokio::test]
async fn what_a_destination_can_never_take_is_redriven_there_alone() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    let good = Counting::default();
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let picky = move |_: Delivery| {
        let mended = mended.load(Ordering::SeqCst);
        async move { if mended { Ok(()) } else { Err(HandlerError::permanent("never")) } }
    };
    let fan_out = FanOut::builder(receiver.inbox()).to("good", good.destination()).to("picky", picky).build().unwrap();
    let endpoint = endpoint(&receiver, &fan_out).await;
    assert_eq!(endpoint.post(&open("evt_1")).await.status, 200);
    let keys: Vec<String> = stores.letters().iter().map(|letter| letter.key.endpoint().to_owned()).collect();
    assert_eq!(keys, ["default/picky"]);
    is_mended.store(true, Ordering::SeqCst);
    let redriven = redrive_all(fan_out.redrive_all()).await;
    assert_eq!(redriven.len(), 1);
    assert_eq!(redriven[0].1, Outcome::Processed);
    assert_eq!(stores.letters(), []);
    assert_eq!(good.taken()["evt_1"], 1);
}

#[tokio::test]
async fn a_destination_gets_the_types_that_it_wants() {
    let stores = FaultyStores::default();
    let builder = Receiver::builder(secret())
        .store(stores.clone())
        .dangerously_without_dead_letters()
        .unknown_types(UnknownTypes::Deliver);
    let receiver = builder.build().unwrap();
    let [all, some] = <[Counting; 2]>::default();
    let types = [EventType::Bounce, EventType::Complaint];
    let fan_out =
        FanOut::builder(receiver.inbox()).to("all", all.destination()).to_types("some", types, some.destination());
    let endpoint = endpoint(&receiver, &fan_out.build().unwrap()).await;
    for &event_type in EventType::ALL {
        assert_eq!(endpoint.post(&Sample::new(event_type).event_id(event_type.as_str()).body()).await.status, 200);
    }
    assert_eq!(endpoint.post(&Sample::of_unknown_type("new").event_id("new").body()).await.status, 200);
    assert_eq!(all.taken().len(), 10);
    let mut wanted: Vec<String> = some.taken().into_keys().collect();
    wanted.sort_unstable();
    assert_eq!(wanted, ["bounce", "complaint"]);
}

/// A shutdown begins while an event is on its way to its destinations.
#[tokio::test]
async fn a_drain_waits_for_the_destinations() {
    let receiver = receiver(&FaultyStores::default());
    let [gate, taken] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
    let (held, done) = (Arc::clone(&gate), Arc::clone(&taken));
    let slow = move |_: Delivery| {
        let (held, done) = (Arc::clone(&held), Arc::clone(&done));
        async move {
            held.acquire().await.unwrap().forget();
            done.add_permits(1);
            Ok(())
        }
    };
    let inner = FanOut::builder(receiver.inbox()).to("slow", slow).build().unwrap();
    // The second destination begins only when the door is closed.
    let fan_out = inner.clone();
    let closing = receiver.clone();
    let endpoint = Endpoint::of_receiver(Front::ANY, receiver.clone(), move |delivery| {
        let (fan_out, closing) = (fan_out.clone(), closing.clone());
        async move {
            let draining = closing.clone();
            tokio::spawn(async move { draining.drain().await });
            while closing.inbox().redeliver(delivery.event().clone()).is_ok() {
                tokio::task::yield_now().await;
            }
            fan_out.handler()(delivery).await
        }
    })
    .await;
    let exchange = endpoint.begin(&Post::signed(&open("evt_1"))).await;
    eventually("the handler runs", || endpoint.handled() == 1).await;
    gate.add_permits(1);
    receiver.drain().await;
    assert_eq!(taken.available_permits(), 1);
    drop(exchange);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let receiver = receiver(&FaultyStores::default());
    let build = |names: &[&str]| {
        let builder = FanOut::builder(receiver.inbox());
        let counting = Counting::default();
        names.iter().fold(builder, |builder, name| builder.to(*name, counting.destination())).build().unwrap_err()
    };
    assert!(matches!(build(&[]), FanOutError::Empty));
    assert!(matches!(build(&["a", "b", "a"]), FanOutError::Twice(name) if name == "a"));
    for name in ["", "a b", "a:b", "a/b", "ä", &"x".repeat(65)] {
        let error = build(&[name]);
        assert!(matches!(&error, FanOutError::Name { source: ConfigError::EndpointName { .. }, .. }), "{error:?}");
    }
}

/// Sendarix has given up, and one destination is mended a day later: only that one has news.
#[tokio::test]
async fn what_was_given_up_is_redriven_where_it_failed() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    let [good, bad] = <[Counting; 2]>::default();
    let fan_out =
        FanOut::builder(receiver.inbox()).to("good", good.destination()).to("bad", bad.destination()).build().unwrap();
    let endpoint = endpoint(&receiver, &fan_out).await;
    bad.fail(true);
    for _ in 0..6 {
        assert_eq!(endpoint.post(&open("evt_1")).await.status, 503);
    }
    bad.fail(false);
    let handler = fan_out.handler();
    assert_eq!(redrive_all(receiver.inbox().redrive_all(handler.clone())).await, [], "there is no letter of the whole");
    let redriven = redrive_all(fan_out.redrive_all()).await;
    assert_eq!(redriven.iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>(), [Outcome::Processed]);
    assert_eq!((good.taken()["evt_1"], bad.taken()["evt_1"]), (1, 1));
    assert_eq!(stores.letters(), []);
}

/// Its destinations would share their records with those of the other receiver.
#[tokio::test]
async fn behind_another_receiver_it_takes_nothing() {
    let stores = FaultyStores::default();
    let (of, behind) = (
        receiver(&stores),
        Receiver::builder(secret()).endpoint("other").dangerously_without_dead_letters().build().unwrap(),
    );
    let good = Counting::default();
    let fan_out = FanOut::builder(of.inbox()).to("good", good.destination()).build().unwrap();
    assert_eq!(endpoint(&behind, &fan_out).await.post(&open("evt_1")).await.status, 503);
    let nested = FanOut::builder(of.inbox()).to("outer", fan_out.handler()).build().unwrap();
    assert_eq!(endpoint(&of, &nested).await.post(&open("evt_1")).await.status, 503);
    assert!(good.taken().is_empty());
}

/// A worker whose name looks like that of a destination has its record.
#[tokio::test]
async fn a_worker_is_no_destination() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    let queued = Counting::default();
    let fan_out = FanOut::builder(receiver.inbox()).to("jobs", queued.destination()).build().unwrap();
    assert_eq!(endpoint(&receiver, &fan_out).await.post(&open("evt_1")).await.status, 200);
    let worker = Inbox::builder("default.jobs").store(stores).dangerously_without_dead_letters().build().unwrap();
    let event = sendarix_webhooks::SendarixEvent::decode(open("evt_1")).unwrap();
    for expected in [Outcome::Processed, Outcome::Duplicate] {
        let delivery = worker.redeliver(event.clone()).unwrap().deliver(|_| async { Ok(()) });
        assert_eq!(delivery.await.outcome(), expected);
    }
}

/// One destination takes longer than all of them may. It goes on by itself, and nothing is done twice.
#[tokio::test]
async fn a_destination_that_takes_too_long_goes_on() {
    let stores = FaultyStores::default();
    let builder = Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone());
    let receiver = builder.handler_limit(Duration::from_millis(300)).build().unwrap();
    let [quick, slow] = <[Counting; 2]>::default();
    let taken = slow.clone();
    let slowly = move |delivery: Delivery| {
        let taken = taken.destination().take(delivery);
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            taken.await
        }
    };
    let fan_out =
        FanOut::builder(receiver.inbox()).to("quick", quick.destination()).to("slow", slowly).build().unwrap();
    let handler = fan_out.handler();
    // Less time is left for the whole than the part has, which begins now.
    let late = move |delivery| {
        let passed_on = handler(delivery);
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            passed_on.await
        }
    };
    let endpoint = Endpoint::of_receiver(Front::ANY, receiver.clone(), late).await;
    assert_eq!(endpoint.post(&open("evt_1")).await.status, 503, "the whole has run out of time");
    eventually("the slow one has it", || !slow.taken().is_empty()).await;
    let start = std::time::Instant::now();
    while endpoint.post(&open("evt_1")).await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "the next delivery does not find all done");
    }
    assert_eq!((quick.taken()["evt_1"], slow.taken()["evt_1"]), (1, 1));
    assert_eq!(stores.letters(), []);
}

#[tokio::test]
async fn it_stands_behind_every_server() {
    for front in Front::ALL {
        let receiver = receiver(&FaultyStores::default());
        let counting: [Counting; 2] = Default::default();
        let builder =
            FanOut::builder(receiver.inbox()).to("a", counting[0].destination()).to("b", counting[1].destination());
        let handler = builder.build().unwrap().handler();
        let endpoint = Endpoint::of_receiver(front, receiver, handler).await;
        for _ in 0..2 {
            assert_eq!(endpoint.post(&open("evt_1")).await.status / 100, 2, "{front:?}");
        }
        assert!(counting.iter().all(|counting| counting.taken()["evt_1"] == 1), "{front:?}");
    }
}

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("sendarix-lines-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }

    /// The ids in every file, and how many files there are.
    fn ids(&self) -> (Vec<String>, usize) {
        let files = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
        files.sort();
        let mut ids: Vec<String> = files.iter().flat_map(|path| ids_in(path)).collect();
        ids.sort_unstable();
        (ids, files.len())
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ids_in(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    text.lines().map(|line| value(line)["event_id"].as_str().unwrap().to_owned()).collect()
}

async fn into_lines(lines: JsonLines) -> Endpoint {
    let receiver = receiver(&FaultyStores::default());
    let fan_out = FanOut::builder(receiver.inbox()).to("lines", lines).build().unwrap();
    endpoint(&receiver, &fan_out).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_whole_and_files_rotate_by_size() {
    let dir = TempDir::new();
    let endpoint = Arc::new(into_lines(JsonLines::builder(dir.file()).max_bytes(2000).open().unwrap()).await);
    let mut posts = tokio::task::JoinSet::new();
    for number in 0..100 {
        let endpoint = Arc::clone(&endpoint);
        posts.spawn(async move { endpoint.post(&open(&format!("evt_{number:03}"))).await.status });
    }
    assert_eq!(posts.join_all().await, [200; 100]);
    let (ids, files) = dir.ids();
    assert_eq!(ids, (0..100).map(|number| format!("evt_{number:03}")).collect::<Vec<_>>());
    assert!(files > 2, "{files}");
    let body = br#"{"event":"open", "message_id":"m", "recipient":"r",
        "timestamp": 1776609121, "data": {"a":
        ["x", 1.50]}}"#;
    assert_eq!(endpoint.post(body).await.status, 200);
    let text = std::fs::read_to_string(dir.file()).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.contains(
            r#""event_type":"open","timestamp":"2026-04-19T14:32:01Z","message_id":"m","recipient":"r","data":{"a":"#
        ),
        "{last}"
    );
    assert!(last.contains("1.50"), "numbers stay as they were sent: {last}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(dir.file()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_file_that_is_old_rotates_and_an_empty_one_does_not() {
    let dir = TempDir::new();
    let endpoint = into_lines(JsonLines::builder(dir.file()).max_age(Duration::ZERO).open().unwrap()).await;
    for expected in 1..=3 {
        assert_eq!(endpoint.post(&open(&format!("evt_{expected}"))).await.status, 200);
        assert_eq!(dir.ids().1, expected);
    }
}

/// A process was killed in the middle of a line.
#[tokio::test]
async fn part_of_a_line_is_cut_off() {
    let dir = TempDir::new();
    std::fs::write(dir.file(), "{\"event_id\":\"evt_whole\"}\n{\"event_id\":\"evt_par").unwrap();
    let lines = JsonLines::open(dir.file()).unwrap();
    let error = JsonLines::open(dir.file()).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("has it open already"), "{error:?}");
    let endpoint = into_lines(lines).await;
    assert_eq!(endpoint.post(&open("evt_next")).await.status, 200);
    assert_eq!(dir.ids().0, ["evt_next", "evt_whole"]);
}

#[test]
fn a_file_can_be_opened_again_at_once() {
    let dir = TempDir::new();
    for _ in 0..100 {
        drop(JsonLines::open(dir.file()).unwrap());
    }
    assert!(
        JsonLines::open("/nonexistent/events.jsonl").unwrap_err().to_string().contains("/nonexistent/events.jsonl")
    );
}

#[tokio::test]
async fn a_file_that_was_moved_or_deleted_is_begun_anew() {
    let dir = TempDir::new();
    let endpoint = into_lines(JsonLines::open(dir.file()).unwrap()).await;
    assert_eq!(endpoint.post(&open("evt_1")).await.status, 200);
    std::fs::rename(dir.file(), dir.0.join("loaded.jsonl")).unwrap();
    assert_eq!(endpoint.post(&open("evt_2")).await.status, 200);
    assert_eq!(ids_in(&dir.file()), ["evt_2"]);
    assert_eq!(ids_in(&dir.0.join("loaded.jsonl")), ["evt_1"]);
    std::fs::remove_file(dir.file()).unwrap();
    assert_eq!(endpoint.post(&open("evt_3")).await.status, 200);
    assert_eq!(ids_in(&dir.file()), ["evt_3"]);
}

/// An editor has taken the last line break away; and a path leads to something else.
#[test]
fn nothing_whole_is_cut_off() {
    let dir = TempDir::new();
    std::fs::write(dir.file(), "{\"event_id\":\"a\"}\n{\"event_id\":\"b\"}").unwrap();
    drop(JsonLines::open(dir.file()).unwrap());
    assert_eq!(ids_in(&dir.file()), ["a", "b"]);
    std::fs::write(dir.file(), "{\"precious\": [1, 2, 3]}").unwrap();
    let error = JsonLines::open(dir.file()).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("other content"), "{error:?}");
    assert_eq!(std::fs::read_to_string(dir.file()).unwrap(), "{\"precious\": [1, 2, 3]}");
}

/// The place for the files is gone, so nothing is acknowledged; then it is back.
#[tokio::test]
async fn nothing_is_acknowledged_that_is_not_written() {
    let dir = TempDir::new();
    let place = dir.0.join("place");
    std::fs::create_dir(&place).unwrap();
    let endpoint = into_lines(JsonLines::builder(place.join("events.jsonl")).max_bytes(1).open().unwrap()).await;
    assert_eq!(endpoint.post(&open("evt_1")).await.status, 200);
    let away = dir.0.join("away");
    std::fs::rename(&place, &away).unwrap();
    assert_eq!(endpoint.post(&open("evt_2")).await.status, 503);
    std::fs::rename(&away, &place).unwrap();
    assert_eq!(endpoint.post(&open("evt_2")).await.status, 200);
    assert_eq!(ids_in(&place.join("events.jsonl")), ["evt_2"]);
}

/// What a crash leaves of the very first line: a few bytes of it, or zeros that were never written.
#[tokio::test]
async fn a_torn_first_line_and_zeros_are_cut_off() {
    let line = "{\"event_id\":\"evt_1\",\"event_type\":\"open\"}";
    let mut torn: Vec<Vec<u8>> = (1..line.len()).map(|end| line.as_bytes()[..end].to_vec()).collect();
    torn.push(vec![0; 5000]);
    torn.push([line.as_bytes(), &[0; 5000]].concat());
    torn.push([line.as_bytes(), b"\n", &[0; 5000]].concat());
    for bytes in torn {
        let dir = TempDir::new();
        std::fs::write(dir.file(), &bytes).unwrap();
        let endpoint = into_lines(JsonLines::open(dir.file()).unwrap()).await;
        assert_eq!(endpoint.post(&open("evt_2")).await.status, 200);
        let ids = ids_in(&dir.file());
        assert!(ids == ["evt_2"] || ids == ["evt_1", "evt_2"], "{ids:?} after {} bytes", bytes.len());
    }
}

/// As `logrotate` does with `copytruncate`.
#[tokio::test]
async fn a_file_that_was_cut_short_goes_on_where_it_ends() {
    let dir = TempDir::new();
    let endpoint = into_lines(JsonLines::open(dir.file()).unwrap()).await;
    let cut = |len| std::fs::OpenOptions::new().write(true).open(dir.file()).unwrap().set_len(len).unwrap();
    assert_eq!(endpoint.post(&open("evt_1")).await.status, 200);
    let first = std::fs::metadata(dir.file()).unwrap().len();
    assert_eq!(endpoint.post(&open("evt_2")).await.status, 200);
    cut(first + 10);
    assert_eq!(endpoint.post(&open("evt_3")).await.status, 200);
    assert_eq!(ids_in(&dir.file()), ["evt_1", "evt_3"], "no hole, and no part of a line");
    cut(0);
    assert_eq!(endpoint.post(&open("evt_4")).await.status, 200);
    assert_eq!(ids_in(&dir.file()), ["evt_4"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_loader_that_may_read_one_file_may_read_those_after_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    let endpoint = into_lines(JsonLines::builder(dir.file()).max_bytes(1).open().unwrap()).await;
    std::fs::set_permissions(dir.file(), std::fs::Permissions::from_mode(0o640)).unwrap();
    for id in ["evt_1", "evt_2", "evt_3"] {
        assert_eq!(endpoint.post(&open(id)).await.status, 200);
    }
    let files: Vec<_> = std::fs::read_dir(&dir.0).unwrap().map(|entry| entry.unwrap().path()).collect();
    let lines = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    assert!(lines.clone().count() >= 3);
    for path in lines {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o640, "{path:?}");
    }
    let error = JsonLines::open("/dev/null").unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("not a regular file"), "{error:?}");
}

/// The letters of one destination cannot be listed, and the others have their turn.
#[tokio::test]
async fn redriving_reaches_every_destination() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    let counting: [Counting; 3] = Default::default();
    let builder = counting.iter().zip(["a", "b", "c"]);
    let fan_out = builder
        .fold(FanOut::builder(receiver.inbox()), |builder, (counting, name)| builder.to(name, counting.destination()));
    let fan_out = fan_out.build().unwrap();
    let endpoint = endpoint(&receiver, &fan_out).await;
    counting.iter().for_each(|counting| counting.fail(true));
    assert_eq!(endpoint.post(&open("evt_1")).await.status, 503);
    counting.iter().for_each(|counting| counting.fail(false));
    assert_eq!(stores.letters().len(), 3);
    stores.listing_fails_for("default/b");
    let mut redrives = fan_out.redrive_all().unwrap();
    assert_eq!(redrives.next().await.unwrap().unwrap().key.endpoint(), "default/a");
    assert_eq!(redrives.next().await.unwrap_err().kind(), RedriveErrorKind::DeadLetters);
    assert_eq!(redrives.next().await.unwrap().unwrap().key.endpoint(), "default/c");
    assert!(redrives.next().await.unwrap().is_none());
    let left: Vec<_> = stores.letters().iter().map(|letter| letter.key.endpoint().to_owned()).collect();
    assert_eq!(left, ["default/b"]);
}
