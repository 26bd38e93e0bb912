//! Example servers as processes, and what is sent to them.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use reqwest::Client;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, SigningSecret};

use crate::eventually;
use crate::server::{PATIENCE, TempDir, signal};

/// The secret of every [`Instance`].
pub const SECRET: &str = "a secret for tests";

/// A program of this workspace, as it is now: an example, the command line, or one of `src/bin`.
pub fn program(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
        for apart in ["benches", "fuzz", "proof"] {
            build.args(["--exclude", &format!("sendarix-webhooks-{apart}")]);
        }
        assert!(build.status().unwrap().success(), "the programs of the workspace can be built");
    });
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join(name)
}

/// A running server, killed when it is dropped.
pub struct Instance {
    process: Child,
    url: String,
    client: Client,
    stdout: Arc<Mutex<Vec<String>>>,
    stdout_ends: Option<JoinHandle<()>>,
    stderr: Arc<Mutex<Vec<String>>>,
    /// Where it runs, unless the command says otherwise.
    _place: TempDir,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Answered(u16),
    /// The server has gone, or never answered.
    Lost,
}

impl Instance {
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        Self::of_command(name, &mut Command::new(program(name)), arguments)
    }

    /// With an environment, or as a user, of the command's own.
    pub fn of_command(name: &str, command: &mut Command, arguments: &[&str]) -> Self {
        Self::with_stdout(name, command.args(arguments), Stdio::piped())
    }

    /// With its standard output in a file.
    pub fn printing_to(name: &str, command: &mut Command, file: std::fs::File) -> Self {
        Self::with_stdout(name, command, file.into())
    }

    fn with_stdout(name: &str, command: &mut Command, stdout: Stdio) -> Self {
        command.env("SENDARIX_WEBHOOK_SECRET", SECRET).env_remove("SENDARIX_WEBHOOK_SECRET_PREVIOUS");
        let place = TempDir::new();
        if command.get_current_dir().is_none() {
            command.current_dir(place.path());
        }
        let mut process = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let (listening, told) = mpsc::channel();
        let tell = move |line: &str| {
            if let Some((_, url)) = line.split_once("listening on ") {
                let _ = listening.send(url.to_owned());
            }
        };
        let (stdout, stdout_ends) = match process.stdout.take() {
            Some(pipe) => collect(pipe, tell.clone()),
            None => collect(std::io::empty(), |_| {}),
        };
        let (stderr, _) = collect(process.stderr.take().unwrap(), tell);
        // A proxy that it needs may be waiting for this thread.
        let told = tokio::task::block_in_place(|| told.recv_timeout(PATIENCE));
        let url = told.unwrap_or_else(|_| panic!("{name} did not start: {stderr:?}"));
        let client = Client::builder().timeout(Duration::from_secs(15)).build().unwrap();
        Self { process, url, client, stdout, stdout_ends: Some(stdout_ends), stderr, _place: place }
    }

    pub fn shared_store(store: &str) -> Self {
        Self::start("shared_store", &["--listen", "127.0.0.1:0", "--store", store])
    }

    /// Sends an event once.
    pub async fn send(&self, event_id: &str) -> Sent {
        self.send_at(event_id, SystemTime::now()).await
    }

    /// Sends an event with the time of another clock. Its recipient has the name of the event.
    pub async fn send_at(&self, event_id: &str, now: SystemTime) -> Sent {
        let sample = Sample::new(EventType::Delivered).event_id(event_id).recipient(event_id);
        self.send_signed(sample.body(), now).await
    }

    /// Sends something, whatever it is.
    pub async fn send_body(&self, body: &[u8]) -> Sent {
        self.send_signed(body.to_vec(), SystemTime::now()).await
    }

    async fn send_signed(&self, body: Vec<u8>, now: SystemTime) -> Sent {
        let mut request = self.client.post(&self.url);
        for (name, value) in signed_headers(&SigningSecret::new(SECRET).unwrap(), &body, now) {
            request = request.header(name, value);
        }
        match request.body(body).send().await {
            Ok(response) => Sent::Answered(response.status().as_u16()),
            Err(_) => Sent::Lost,
        }
    }

    /// Sends an event as Sendarix would until it is acknowledged, only without its pauses.
    pub async fn send_until_acknowledged(&self, event_id: &str) -> Duration {
        let acknowledged = || async { self.send(event_id).await == Sent::Answered(200) };
        eventually(&format!("{event_id} is acknowledged"), acknowledged).await
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// The ids of the events that it has handled, with none still on its way here.
    pub async fn all_handled(&self) -> Vec<String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let last = format!("evt_last_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.send_until_acknowledged(&last).await;
        eventually("the last line comes", || async { self.handled().contains(&last) }).await;
        self.handled().into_iter().filter(|id| !id.starts_with("evt_last_")).collect()
    }

    /// The ids of the events that it has handled, as far as they have come here.
    pub fn handled(&self) -> Vec<String> {
        let stdout = self.stdout();
        stdout.iter().filter_map(|line| line.strip_prefix("handled ")?.split(' ').nth(1).map(str::to_owned)).collect()
    }

    /// Waits for a line on standard error.
    pub async fn until_logged(&self, part: &str) {
        let logged = || async { self.stderr().iter().any(|line| line.contains(part)) };
        eventually(&format!("the log says: {part}"), logged).await;
    }

    pub async fn until_paused(&self) {
        eventually("it pauses", || async { self.stdout().iter().any(|line| line == "paused") }).await;
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Kills it, and returns all that it has written to standard output.
    pub fn kill(mut self) -> Vec<String> {
        self.signal("KILL");
        let ends = self.stdout_ends.take().unwrap();
        tokio::task::block_in_place(|| ends.join()).unwrap();
        self.stdout()
    }

    /// Ends it with SIGTERM, and returns all that it has written to standard output.
    pub fn terminate(mut self) -> Vec<String> {
        self.signal("TERM");
        let ends = self.stdout_ends.take().unwrap();
        let status = tokio::task::block_in_place(|| {
            ends.join().unwrap();
            self.process.wait().unwrap()
        });
        assert_eq!(status.code(), Some(0), "it ends by itself");
        self.stdout()
    }

    pub fn signal(&self, name: &str) {
        signal(self.process.id(), name);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let stderr = self.stderr();
            let last = stderr.len().saturating_sub(30);
            eprintln!("the log of {}:\n{}", self.url, stderr[last..].join("\n"));
        }
    }
}

fn collect(
    pipe: impl std::io::Read + Send + 'static,
    mut seen: impl FnMut(&str) + Send + 'static,
) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&lines);
    let ends = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            seen(&line);
            all.lock().unwrap().push(line);
        }
    });
    (lines, ends)
}
