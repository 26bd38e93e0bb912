//! The fault rig: three processes of an example server over one store, a simulated Sendarix, and a schedule of faults that
//! follows from a seed.
//!
//! ```sh
//! FAULT_KILLS=250 FAULT_SEED=1 cargo test --all-features --test stores rig -- --nocapture --test-threads 1
//! ```
//!
//! Each line of its output is one run. *Lost* are events that were acknowledged, and neither handled nor kept. *Stuck* are
//! those that the sender gave up and that are not acknowledged either once all is well again. *Doubled* are effects beyond
//! the first of each event; *cut off* are effects of a process that was killed or stopped before its answer was there, which
//! is where a double effect can come from.

use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use sendarix_webhooks::testing::AttemptResult::{AnswerLost, Answered};
use sendarix_webhooks::testing::{Ledger, Sample, SimulatedRequest, Simulation, signed_headers};
use sendarix_webhooks::{EventType, SendarixEvent};
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::{Backend, Fault, Instance, Kind, Proxy, example, secret};

const INSTANCES: usize = 3;
const LEASE_SECONDS: u64 = 6;
/// The third retry of an event comes 7 s after the first attempt, and so after the lease.
const COMPRESSION: f64 = 300.0;
const EVENTS_PER_SECOND: f64 = 100.0;

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    run(Kind::Sqlite, "shared_store").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    run(Kind::Redis, "shared_store").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    run(Kind::Postgres, "shared_store").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_with_transactions() {
    run(Kind::Sqlite, "transactional").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_transactions() {
    run(Kind::Postgres, "transactional").await;
}

async fn run(kind: Kind, program: &'static str) {
    let setting = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse::<u32>().unwrap());
    let (seed, kills) = (u64::from(setting("FAULT_SEED", 1)), setting("FAULT_KILLS", 15));
    let mut world = World::start(kind, program).await;
    let over = Arc::new(AtomicBool::new(false));
    let (sending, ended) = (Arc::clone(&world.balancer), Arc::clone(&over));
    let events = std::iter::from_fn(move || {
        let sample = Sample::new(EventType::Delivered);
        let id = format!("evt_{}", sending.next_event());
        (!ended.load(Ordering::Relaxed)).then(|| sample.event_id(&id).recipient(id).body())
    });
    let balancer = Arc::clone(&world.balancer);
    let simulation = Simulation::new(secret()).seed(seed).compress(COMPRESSION).jitter(0.2).duplicate(0.05);
    let simulation = simulation.pace(EVENTS_PER_SECOND, 1).connections(64);
    let ledger = tokio::spawn(simulation.run(events, move |request| Arc::clone(&balancer).send(request)));

    let mut schedule = Schedule::new(seed);
    while world.kills < kills {
        schedule.step(&mut world).await;
    }
    schedule.heal(&mut world);
    over.store(true, Ordering::Relaxed);
    let ledger = ledger.await.unwrap();

    let report = world.report(&ledger).await;
    eprintln!("{kind:?}, {program}, seed {seed}: {kills} kills, {schedule}\n    {report}");
    assert_eq!((report.lost, report.stuck, report.unexplained), (0, 0, 0));
    if program == "transactional" {
        assert_eq!(report.doubled, 0);
    }
    assert!(report.events > 0 && report.acknowledged > report.events / 2, "the run shows something");
}

/// Which faults there were, and which are to end soon.
struct Schedule {
    random: SmallRng,
    faults: HashMap<&'static str, usize>,
    ends: Vec<(Instant, End)>,
}

#[derive(Clone, Copy)]
enum End {
    Stop(usize),
    Network,
    SlowDisk,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), faults: HashMap::new(), ends: Vec::new() }
    }

    /// One fault, and a pause.
    async fn step(&mut self, world: &mut World) {
        let instance = self.random.random_range(0..INSTANCES);
        let fault = match self.random.random_range(0..100) {
            0..10 => "stop",
            10..20 if world.proxy.is_some() => "network",
            20..24 if world.proxy.is_some() => "restart of the store",
            24..30 => "slow disk",
            _ => "kill",
        };
        *self.faults.entry(fault).or_default() += 1;
        match fault {
            "stop" => {
                world.stop(instance);
                // Half of the time longer than a lease.
                let seconds = if self.random.random() { self.random.random_range(0.1..3.0) } else { 8.0 };
                self.ends_in(seconds, End::Stop(instance));
            }
            "network" => {
                let faults = [Fault::Reset, Fault::Silence, Fault::RepliesLost];
                world.network(faults.choose(&mut self.random).unwrap().clone());
                let seconds = self.random.random_range(0.05..1.5);
                self.ends_in(seconds, End::Network);
            }
            "restart of the store" => {
                // A server that starts syncs much, and would take its time.
                world.backend.slow_disk().unwrap().set(false);
                world.backend.kill();
                sleep(Duration::from_millis(self.random.random_range(0..800))).await;
                tokio::task::block_in_place(|| world.backend.start_again());
            }
            "slow disk" => {
                world.backend.slow_disk().unwrap().set(true);
                let seconds = self.random.random_range(0.2..2.0);
                self.ends_in(seconds, End::SlowDisk);
            }
            _ => world.kill(instance),
        }
        let pause = Instant::now() + Duration::from_millis(self.random.random_range(20..300));
        while let Some(next) = self.ends.iter().map(|(at, _)| *at).filter(|at| *at <= pause).min() {
            sleep_until(next).await;
            self.end(world, next);
        }
        sleep_until(pause).await;
    }

    fn ends_in(&mut self, seconds: f64, end: End) {
        self.ends.push((Instant::now() + Duration::from_secs_f64(seconds), end));
    }

    fn end(&mut self, world: &mut World, until: Instant) {
        let (due, later) = self.ends.drain(..).partition(|(at, _)| *at <= until);
        self.ends = later;
        let due: Vec<(Instant, End)> = due;
        for (_, end) in due {
            match end {
                End::Stop(instance) => world.go_on(instance),
                End::Network => world.network(Fault::None),
                End::SlowDisk => world.backend.slow_disk().unwrap().set(false),
            }
        }
    }

    fn heal(&mut self, world: &mut World) {
        self.end(world, Instant::now() + Duration::from_secs(3600));
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut faults: Vec<_> = self.faults.iter().filter(|(fault, _)| **fault != "kill").collect();
        faults.sort();
        let faults: Vec<String> = faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        f.write_str(&faults.join(", "))
    }
}

/// The processes, their store and what is between them.
struct World {
    backend: Backend,
    proxy: Option<Proxy>,
    program: &'static str,
    instances: [Option<Instance>; INSTANCES],
    balancer: Arc<Balancer>,
    /// The ids that each process has handled, those that are killed by now.
    handled: HashMap<usize, Vec<String>>,
    kills: u32,
}

impl World {
    async fn start(kind: Kind, program: &'static str) -> Self {
        // What it has acknowledged, Redis must find again.
        let settings: &[&str] =
            if kind == Kind::Redis { &["--appendonly", "yes", "--appendfsync", "always"] } else { &[] };
        let backend = Backend::with_slow_disk(kind, settings);
        let proxy = if kind == Kind::Sqlite { None } else { Some(Proxy::start(backend.addr()).await) };
        let instances = [const { None }; INSTANCES];
        let (balancer, handled) = <(Arc<Balancer>, HashMap<usize, Vec<String>>)>::default();
        let mut world = Self { backend, proxy, program, instances, balancer, handled, kills: 0 };
        for instance in 0..INSTANCES {
            world.start_instance(instance);
        }
        world
    }

    fn start_instance(&mut self, number: usize) {
        let port = self.proxy.as_ref().map_or(0, |proxy| proxy.port);
        let (store, lease) = (self.backend.url_at(port), LEASE_SECONDS.to_string());
        let mut command = Command::new(example(self.program));
        if self.backend.kind == Kind::Sqlite {
            self.backend.slow_disk().unwrap().preload(&mut command);
        }
        let arguments = ["--listen", "127.0.0.1:0", "--store", &store, "--lease", &lease];
        let instance = Instance::of_command(self.program, &mut command, &arguments);
        self.balancer.begin(number, instance.url());
        self.instances[number] = Some(instance);
    }

    fn kill(&mut self, number: usize) {
        self.kills += 1;
        self.end(number);
        if self.program == "transactional" {
            // At its start it asks for its tables, and a supervisor would start it until it finds them.
            self.network(Fault::None);
        }
        self.start_instance(number);
    }

    fn end(&mut self, number: usize) {
        let instance = self.instances[number].take().unwrap();
        let process = self.balancer.process(number);
        self.handled.insert(process, instance.kill());
    }

    fn stop(&self, number: usize) {
        self.balancer.cut_off(number);
        self.instances[number].as_ref().unwrap().signal("STOP");
        self.balancer.cut_off(number);
    }

    fn go_on(&self, number: usize) {
        self.balancer.cut_off(number);
        self.instances[number].as_ref().unwrap().signal("CONT");
    }

    fn network(&self, fault: Fault) {
        if let Some(proxy) = &self.proxy {
            proxy.set(fault);
        }
    }

    async fn report(mut self, ledger: &Ledger) -> Report {
        let acknowledged: HashSet<&String> = ledger
            .events()
            .iter()
            .filter(|event| event.acknowledged_by().is_some())
            .map(|event| &event.event_id)
            .collect();
        // What was given up goes through now, or it is stuck.
        let given_up: Vec<&String> =
            ledger.events().iter().map(|event| &event.event_id).filter(|id| !acknowledged.contains(id)).collect();
        let mut stuck = 0;
        for id in &given_up {
            let last = Instant::now() + Duration::from_secs(LEASE_SECONDS * 5);
            while !self.balancer.deliver_again(id).await {
                if Instant::now() > last {
                    stuck += 1;
                    break;
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        for number in 0..INSTANCES {
            self.end(number);
        }
        let letters = self.letters().await;
        let cut_off = self.balancer.interrupted.lock().unwrap().clone();
        let (mut effects, mut interrupted): (HashMap<String, usize>, HashMap<String, usize>) = Default::default();
        for (process, ids) in &self.handled {
            for id in ids {
                *effects.entry(id.clone()).or_default() += 1;
                *interrupted.entry(id.clone()).or_default() += usize::from(cut_off.contains(&(*process, id.clone())));
            }
        }
        if self.program == "transactional" {
            let rows = self.backend.sql("SELECT address, balance FROM balances");
            let rows = rows.lines().map(|row| row.split_once('|').unwrap());
            effects = rows.map(|(id, balance)| (id.to_owned(), balance.parse().unwrap())).collect();
        }
        let extra = |id: &String| effects.get(id).map_or(0, |count| count.saturating_sub(1));
        let answers = ledger.events().iter().flat_map(|event| &event.attempts);
        Report {
            events: ledger.events().len(),
            acknowledged: acknowledged.len(),
            given_up: given_up.len(),
            stuck,
            refused: answers.filter(|attempt| matches!(attempt.result, Answered(300..) | AnswerLost(300..))).count(),
            lost: acknowledged.iter().filter(|id| !effects.contains_key(**id) && !letters.contains(**id)).count(),
            letters: letters.len(),
            doubled: effects.keys().map(extra).sum(),
            cut_off: interrupted.values().sum(),
            unexplained: effects.keys().filter(|id| extra(id) > interrupted.get(*id).copied().unwrap_or(0)).count(),
        }
    }

    async fn letters(&self) -> HashSet<String> {
        let letters = self.backend.stores().1;
        let (mut all, mut after) = (HashSet::new(), None::<String>);
        loop {
            let page = letters.list("default", after.as_deref(), 1000).await.unwrap();
            let Some(last) = page.last() else { return all };
            after = Some(last.key.event_id().to_owned());
            all.extend(page.iter().map(|letter| letter.key.event_id().to_owned()));
        }
    }
}

struct Report {
    events: usize,
    acknowledged: usize,
    given_up: usize,
    stuck: usize,
    refused: usize,
    lost: usize,
    letters: usize,
    doubled: usize,
    cut_off: usize,
    /// Events with more effects than its deliveries that were cut off explain.
    unexplained: usize,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { events, acknowledged, given_up, refused, letters, lost, stuck, doubled, cut_off, .. } = self;
        write!(f, "{events} events, {acknowledged} acknowledged, {given_up} given up, {letters} letters, ")?;
        write!(f, "{refused} answers refused; lost {lost}, stuck {stuck}, doubled {doubled} of {cut_off} cut off")
    }
}

/// Sends each request to some process, and knows which of them are under way.
#[derive(Default)]
struct Balancer {
    client: reqwest::Client,
    state: Mutex<Balance>,
    /// Deliveries whose process was killed or stopped before their answer, or that had none.
    interrupted: Mutex<HashSet<(usize, String)>>,
}

#[derive(Default)]
struct Balance {
    events: usize,
    requests: usize,
    processes: usize,
    /// The process of each instance and where it listens.
    instances: [Option<(usize, String)>; INSTANCES],
    under_way: HashMap<usize, (usize, String)>,
}

impl Balancer {
    fn next_event(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.events += 1;
        state.events
    }

    fn begin(&self, instance: usize, url: &str) {
        let mut state = self.state.lock().unwrap();
        state.processes += 1;
        state.instances[instance] = Some((state.processes, url.to_owned()));
    }

    fn process(&self, instance: usize) -> usize {
        self.state.lock().unwrap().instances[instance].as_ref().unwrap().0
    }

    /// Notes what is under way at an instance as interrupted.
    fn cut_off(&self, instance: usize) {
        let process = self.process(instance);
        let state = self.state.lock().unwrap();
        let here = state.under_way.values().filter(|(at, _)| *at == process);
        self.interrupted.lock().unwrap().extend(here.cloned());
    }

    async fn send(self: Arc<Self>, request: SimulatedRequest) -> Result<u16, reqwest::Error> {
        self.post(request.headers, request.body).await
    }

    async fn post(self: Arc<Self>, headers: Vec<(&str, String)>, body: Bytes) -> Result<u16, reqwest::Error> {
        let event_id = SendarixEvent::decode(body.clone()).unwrap().event_id.clone();
        let (mut under_way, url) = self.choose(event_id);
        let mut post = self.client.post(url).body(body);
        for (name, value) in headers {
            post = post.header(name, value);
        }
        let response = post.send().await?;
        under_way.is_answered = true;
        Ok(response.status().as_u16())
    }

    async fn deliver_again(self: &Arc<Self>, id: &str) -> bool {
        let body = Sample::new(EventType::Delivered).event_id(id).recipient(id).body();
        let headers = signed_headers(&secret(), &body, SystemTime::now()).into();
        Arc::clone(self).post(headers, body.into()).await.is_ok_and(|status| status == 200)
    }

    fn choose(self: &Arc<Self>, event_id: String) -> (UnderWay, String) {
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        let request = state.requests;
        let (process, url) = state.instances[request % INSTANCES].clone().unwrap();
        state.under_way.insert(request, (process, event_id));
        (UnderWay { balancer: Arc::clone(self), request, is_answered: false }, url)
    }
}

/// A request without an answer so far.
struct UnderWay {
    balancer: Arc<Balancer>,
    request: usize,
    is_answered: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let delivery = self.balancer.state.lock().unwrap().under_way.remove(&self.request);
        if !self.is_answered {
            self.balancer.interrupted.lock().unwrap().extend(delivery);
        }
    }
}
