//! The processes, their store, what is sent to them, and what has become of it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sendarix_webhooks::EventType;
use sendarix_webhooks::testing::AttemptResult::{AnswerLost, Answered};
use sendarix_webhooks::testing::{Ledger, Sample, SimulatedRequest, signed_headers};
use tokio::time::{Instant, sleep};

use crate::support::{Backend, Fault, Instance, Kind, Proxy, program, secret};

pub const INSTANCES: usize = 3;
pub const LEASE_SECONDS: u64 = 6;

pub struct World {
    pub backend: Backend,
    pub kills: u32,
    pub traffic: Arc<Traffic>,
    proxy: Option<Proxy>,
    program: &'static str,
    instances: [Option<Instance>; INSTANCES],
    /// What each process that is gone has written to standard output.
    outputs: Vec<Vec<String>>,
}

impl World {
    pub async fn start(kind: Kind, program: &'static str) -> Self {
        // What it has acknowledged, Redis must find again.
        let settings: &[&str] =
            if kind == Kind::Redis { &["--appendonly", "yes", "--appendfsync", "always"] } else { &[] };
        let backend = Backend::with_slow_disk(kind, settings);
        std::fs::write(backend.dir().join("effects"), "").unwrap();
        let proxy = if kind == Kind::Sqlite { None } else { Some(Proxy::start(backend.addr()).await) };
        let (traffic, instances) = (Arc::new(Traffic::new(program)), [const { None }; INSTANCES]);
        let mut world = Self { backend, kills: 0, traffic, proxy, program, instances, outputs: Vec::new() };
        for instance in 0..INSTANCES {
            world.start_instance(instance);
        }
        world
    }

    fn start_instance(&mut self, number: usize) {
        let store = self.backend.url_at(self.proxy.as_ref().map_or(0, |proxy| proxy.port));
        let mut command = Command::new(program(self.program));
        if self.backend.kind == Kind::Sqlite {
            self.backend.slow_disk().unwrap().preload(&mut command);
        }
        command.args(["--store", &store]);
        if self.program == "transactional" {
            command.args(["--listen", "127.0.0.1:0", "--lease", &LEASE_SECONDS.to_string()]);
            // At its start it asks for its tables, and a supervisor would start it until it finds them.
            self.network(Fault::None);
        } else {
            command.arg("--effects").arg(self.backend.dir().join("effects"));
            command.args(["--lease-ms", &(LEASE_SECONDS * 1000).to_string()]);
        }
        let instance = Instance::of_command(self.program, &mut command, &[]);
        self.traffic.begin(number, instance.url());
        self.instances[number] = Some(instance);
    }

    pub fn kill(&mut self, number: usize) {
        self.kills += 1;
        self.end(number);
        self.start_instance(number);
    }

    fn end(&mut self, number: usize) {
        let instance = self.instances[number].take().unwrap();
        self.outputs.push(instance.kill());
    }

    pub fn signal(&self, number: usize, name: &str) {
        self.instances[number].as_ref().unwrap().signal(name);
    }

    pub fn has_network(&self) -> bool {
        self.proxy.is_some()
    }

    pub fn network(&self, fault: Fault) {
        if let Some(proxy) = &self.proxy {
            proxy.set(fault);
        }
    }

    pub fn slow_disk(&self, slow: bool) {
        self.backend.slow_disk().unwrap().set(slow);
    }

    pub async fn report(mut self, ledger: &Ledger) -> Report {
        let events = ledger.events();
        let (mut acknowledged, mut given_up, mut stuck) = (HashSet::new(), 0, 0);
        for (number, event) in events.iter().enumerate() {
            // What was given up goes through now, or it is stuck.
            given_up += usize::from(event.acknowledged_by().is_none());
            if event.acknowledged_by().is_some() || self.traffic.goes_through(number).await {
                acknowledged.insert(&*event.event_id);
            } else {
                stuck += 1;
            }
        }
        for number in 0..INSTANCES {
            self.end(number);
        }
        let letters = self.letters().await;
        let bodies: HashSet<Bytes> = self.traffic.state.lock().unwrap().bodies.iter().cloned().collect();
        let is_kept = |id: &str| letters.get(id).is_some_and(|body| bodies.contains(body));
        // Where the effects are, and not what a process has said of them: it may be killed before it speaks.
        let effects = if self.program == "transactional" {
            let rows = "SELECT address, balance FROM balances
                UNION ALL SELECT recipient, opens FROM sendarix_messages WHERE opens > 0";
            let rows = self.backend.sql(rows);
            let rows = rows.lines().map(|row| row.split_once('|').unwrap());
            rows.map(|(id, balance)| (id.to_owned(), balance.parse().unwrap())).collect()
        } else {
            let effects = std::fs::read_to_string(self.backend.dir().join("effects")).unwrap();
            count(effects.lines())
        };
        let mail_state_wrong = if self.program == "transactional" { self.mail_state_wrong(&effects) } else { 0 };
        let recorded = self.outputs.iter().flatten().filter_map(|line| line.strip_prefix("completed "));
        let recorded = count(recorded);
        let unrecorded =
            |(id, count): (&String, &usize)| (id.clone(), count.saturating_sub(recorded.get(id).copied().unwrap_or(0)));
        let between: HashMap<String, usize> =
            if self.program == "transactional" { HashMap::new() } else { effects.iter().map(unrecorded).collect() };
        let extra = |id: &str| effects.get(id).map_or(0, |count| count.saturating_sub(1));
        let answers = events.iter().flat_map(|event| &event.attempts);
        Report {
            events: events.len(),
            acknowledged: acknowledged.len(),
            given_up,
            stuck,
            refused: answers.filter(|attempt| matches!(attempt.result, Answered(300..) | AnswerLost(300..))).count(),
            lost: acknowledged.iter().filter(|id| !effects.contains_key(**id) && !is_kept(id)).count(),
            letters: letters.len(),
            stale: letters.keys().filter(|id| effects.contains_key(*id)).count(),
            mail_state_wrong,
            doubled: effects.keys().map(|id| extra(id)).sum(),
            between: between.values().sum(),
            unexplained: effects.keys().filter(|id| extra(id) > between.get(*id).copied().unwrap_or(0)).count(),
        }
    }

    fn mail_state_wrong(&self, effects: &HashMap<String, usize>) -> usize {
        let rows = "SELECT e.event_id, m.status, m.opens, s.reason IS NOT NULL AND s.event_id = e.event_id
            FROM sendarix_events AS e JOIN sendarix_messages AS m ON m.message_id = e.message_id AND m.address = e.address
            LEFT JOIN sendarix_suppressions AS s ON s.address = e.address";
        let rows = self.backend.sql(rows);
        let found: HashMap<&str, &str> = rows.lines().map(|row| row.split_once('|').unwrap()).collect();
        let is_right = |id: &String| {
            let number: usize = id.strip_prefix("evt_").unwrap().parse().unwrap();
            let expected: &[&str] = match transactional_type(number) {
                EventType::Bounce => &["bounced|0|t", "bounced|0|1"],
                EventType::Open => &["delivered|1|f", "delivered|1|0"],
                _ => &["delivered|0|f", "delivered|0|0"],
            };
            found.get(id.as_str()).is_some_and(|state| expected.contains(state))
        };
        effects.keys().filter(|id| !is_right(id)).count() + found.len().abs_diff(effects.len())
    }

    /// The bodies of all letters, by the ids of their events.
    async fn letters(&self) -> HashMap<String, Bytes> {
        let letters = self.backend.stores().1;
        let (mut all, mut after) = (HashMap::new(), None::<String>);
        loop {
            let page = letters.list("default", after.as_deref(), 1000).await.unwrap();
            if page.is_empty() {
                return all;
            }
            for letter in page.into_iter().map(Result::unwrap) {
                after = Some(letter.key.event_id().to_owned());
                all.insert(letter.key.event_id().to_owned(), letter.body);
            }
        }
    }
}

/// Each event of a transaction is the only one of its recipient.
fn transactional_type(number: usize) -> EventType {
    [EventType::Delivered, EventType::Bounce, EventType::Open][number % 3]
}

fn count<'a>(ids: impl Iterator<Item = &'a str>) -> HashMap<String, usize> {
    let mut counts = HashMap::<String, usize>::new();
    for id in ids {
        *counts.entry(id.to_owned()).or_default() += 1;
    }
    counts
}

pub struct Report {
    pub events: usize,
    pub acknowledged: usize,
    pub stuck: usize,
    pub lost: usize,
    pub letters: usize,
    /// Letters of events that have been handled.
    pub stale: usize,
    pub doubled: usize,
    /// Recipients whose suppression, message or timeline is not what their one event makes it.
    pub mail_state_wrong: usize,
    /// Events with more effects than those between effect and completion explain.
    pub unexplained: usize,
    given_up: usize,
    refused: usize,
    between: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, acknowledged, given_up, refused, letters, stale, lost, stuck, doubled, between, .. } = self;
        write!(
            f,
            "{events} events, {given_up} given up at first, {acknowledged} acknowledged, {refused} answers refused, "
        )?;
        write!(
            f,
            "{letters} letters, {stale} stale; lost {lost}, stuck {stuck}, doubled {doubled} of {between} between"
        )
    }
}

/// What is sent, and to whom.
pub struct Traffic {
    client: reqwest::Client,
    program: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every body, in the order of the ledger.
    bodies: Vec<Bytes>,
    requests: usize,
    /// Where each instance listens.
    urls: [String; INSTANCES],
}

impl Traffic {
    fn new(program: &'static str) -> Self {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(15)).build().unwrap();
        Self { client, program, state: Mutex::default() }
    }

    /// The next event: one in ten is not handled, or not at first.
    pub fn next_body(&self) -> Bytes {
        let mut state = self.state.lock().unwrap();
        let number = state.bodies.len();
        let (id, sample) = (format!("evt_{number}"), Sample::new(EventType::Delivered));
        let body = match number % 40 {
            // The accounts and the mail state of the other program are by recipient.
            _ if self.program == "transactional" => {
                let sample = Sample::new(transactional_type(number)).event_id(&id);
                sample.message_id(&id).recipient(id).body()
            }
            0 => sample.event_id(id).recipient("fails for good").body(),
            1 => Sample::of_unknown_type("later").event_id(id).body(),
            2 => format!("{{\"no event\": {number}").into_bytes(),
            3 => sample.event_id(id).recipient("fails at first").body(),
            _ => sample.event_id(id).body(),
        };
        state.bodies.push(body.into());
        state.bodies[number].clone()
    }

    fn begin(&self, instance: usize, url: &str) {
        url.clone_into(&mut self.state.lock().unwrap().urls[instance]);
    }

    pub async fn send(self: Arc<Self>, request: SimulatedRequest) -> Result<u16, reqwest::Error> {
        self.post(request.headers, request.body).await
    }

    /// Whether an event is acknowledged before long.
    async fn goes_through(&self, number: usize) -> bool {
        let body = self.state.lock().unwrap().bodies[number].clone();
        let last = Instant::now() + Duration::from_secs(LEASE_SECONDS * 5);
        while Instant::now() < last {
            let headers = signed_headers(&secret(), &body, SystemTime::now()).into();
            if self.post(headers, body.clone()).await.is_ok_and(|status| status == 200) {
                return true;
            }
            sleep(Duration::from_millis(200)).await;
        }
        false
    }

    async fn post(&self, headers: Vec<(&str, String)>, body: Bytes) -> Result<u16, reqwest::Error> {
        let url = {
            let mut state = self.state.lock().unwrap();
            state.requests += 1;
            state.urls[state.requests % INSTANCES].clone()
        };
        let mut post = self.client.post(url).body(body);
        for (name, value) in headers {
            post = post.header(name, value);
        }
        Ok(post.send().await?.status().as_u16())
    }
}
