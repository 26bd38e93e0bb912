//! Secrets that change while the application runs.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Receiver, SecretError, SigningSecret, SigningSecrets};
use tokio::task::JoinSet;

use crate::support::{Connection, Endpoint, Front, Post, eventually};

fn one(text: &str) -> SigningSecret {
    SigningSecret::new(text).unwrap()
}

fn accepts(secrets: &SigningSecrets, text: &str) -> bool {
    secrets.verify(b"body", &one(text).sign(b"body")).is_some()
}

/// As Kubernetes does: the file is a link through a link to a folder, which is exchanged for another by a rename.
fn swap(dir: &Path, version: &str, text: &str) {
    std::fs::create_dir(dir.join(version)).unwrap();
    std::fs::write(dir.join(version).join("secret"), text).unwrap();
    symlink(version, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_file_is_swapped_under_load_and_no_valid_request_is_refused() {
    let dir = std::env::temp_dir().join(format!("sendarix-swapped-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    swap(&dir, "v1", "old\n");
    let file = dir.join("secret");
    symlink("..data/secret", &file).unwrap();
    let read = move || std::future::ready(SigningSecrets::from_file(&file));
    let secrets = read().await.unwrap();
    let receiver = Receiver::builder(secrets.clone()).dangerously_without_dead_letters().build().unwrap();
    let endpoint = Endpoint::of_receiver(Front::ANY, receiver, |_| async {}).await;
    let refresh = secrets.refresh(Duration::from_secs(1), read);

    let (signs_with, stop) = (Arc::new(Mutex::new("old")), Arc::new(AtomicBool::new(false)));
    let accepted = Arc::new(AtomicUsize::new(0));
    let new: [Arc<AtomicBool>; 4] = std::array::from_fn(|_| Arc::default());
    let mut senders = JoinSet::new();
    for (sender, signed_new) in new.iter().cloned().enumerate() {
        let (signs_with, stop, accepted) = (Arc::clone(&signs_with), Arc::clone(&stop), Arc::clone(&accepted));
        let addr = endpoint.addr;
        senders.spawn(async move {
            let mut connection = Connection::open(addr).await;
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let secret = *signs_with.lock().unwrap();
                let body = Sample::new(EventType::Open).event_id(format!("evt_{sender}_{number}")).body();
                let reply = connection.exchange(&Post::signed_by(&one(secret), &body).bytes()).await;
                assert_eq!(reply.status, 200, "signed with {secret}");
                accepted.fetch_add(1, Ordering::SeqCst);
                signed_new.fetch_or(secret == "new", Ordering::SeqCst);
            }
        });
    }
    let some_more = async || {
        let before = accepted.load(Ordering::SeqCst);
        eventually("the senders go on", || accepted.load(Ordering::SeqCst) > before + 20).await;
    };
    some_more().await;
    swap(&dir, "v2", "new\nold\n");
    // By the timer.
    eventually("both are accepted", || accepts(&secrets, "new") && accepts(&secrets, "old")).await;
    some_more().await;
    *signs_with.lock().unwrap() = "new";
    let all_sign_with_it = || new.iter().all(|signed| signed.load(Ordering::SeqCst));
    eventually("each sender signs with the new one", all_sign_with_it).await;
    swap(&dir, "v3", "new\n");
    refresh.now();
    eventually("the old one is gone", || !accepts(&secrets, "old")).await;
    some_more().await;
    stop.store(true, Ordering::SeqCst);
    senders.join_all().await;
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A source that answers what the test tells it to.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Option<&'static str>>>, Arc<AtomicUsize>);

impl Source {
    fn is(&self, secret: Option<&'static str>) {
        *self.0.lock().unwrap() = secret;
    }

    fn reads(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    async fn read(self) -> Result<SigningSecrets, SecretError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let secret = *self.0.lock().unwrap();
        match secret {
            Some("panic") => panic!("the client of the secrets manager is broken"),
            Some("hang") => std::future::pending().await,
            secret => SigningSecret::new(secret.unwrap_or_default()).map(SigningSecrets::from),
        }
    }
}

/// By a clock that moves when everything waits.
#[tokio::test(start_paused = true)]
async fn the_secrets_in_use_stay_when_reading_fails() {
    let (secrets, source) = (SigningSecrets::from(one("old")), Source::default());
    let read = source.clone();
    let refresh = secrets.refresh(Duration::from_secs(10), move || {
        let secret = *read.0.lock().unwrap();
        assert!(secret != Some("panic before"), "the function itself is broken");
        read.clone().read()
    });
    for failure in [None, Some("panic"), Some("hang")] {
        let reads = source.reads();
        source.is(Some("panic before"));
        tokio::time::sleep(Duration::from_secs(45)).await;
        source.is(failure);
        tokio::time::sleep(Duration::from_secs(45)).await;
        assert!(source.reads() > reads, "{failure:?}");
        assert!(accepts(&secrets, "old"), "{failure:?}");
    }
    source.is(Some("new"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(accepts(&secrets, "new") && !accepts(&secrets, "old"));
    drop(refresh);
    source.is(Some("newer"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(accepts(&secrets, "new"), "nothing is read once the guard is gone");
}

#[tokio::test(start_paused = true)]
async fn a_failed_signature_makes_it_read_at_once_and_once_a_minute() {
    let (secrets, source) = (SigningSecrets::from(one("old")), Source::default());
    source.is(Some("old"));
    let read = source.clone();
    let hour = Duration::from_secs(60 * 60);
    let _refresh = secrets.refresh(hour, move || read.clone().read()).when_a_signature_fails();
    let settle = async || tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(accepts(&secrets, "old"));
    settle().await;
    assert_eq!(source.reads(), 0, "a signature that matches asks for nothing");
    for _ in 0..100 {
        assert!(!accepts(&secrets, "forged"));
    }
    settle().await;
    assert_eq!(source.reads(), 1);
    source.is(Some("new"));
    assert!(!accepts(&secrets, "new"));
    settle().await;
    assert_eq!(source.reads(), 1, "a minute has not passed");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!accepts(&secrets, "new"), "Sendarix retries");
    settle().await;
    assert!(accepts(&secrets, "new"));
    assert_eq!(source.reads(), 2);
}

/// Each of two endpoints of one process names its own variables.
#[test]
fn the_error_names_the_variable() {
    let error = SigningSecrets::from_variables("SENDARIX_STAGING_SECRET_OF_NO_TEST", "ITS_PREVIOUS").unwrap_err();
    assert!(error.to_string().starts_with("SENDARIX_STAGING_SECRET_OF_NO_TEST is not set"), "{error}");
}
