//! Private servers: Redis and PostgreSQL on free ports, SQLite in a file.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sendarix_webhooks::dead_letter::DeadLetters;
use sendarix_webhooks::store::DedupStore;
use sendarix_webhooks::{PostgresStore, RedisStore, SqliteStore};

/// The longest that a test waits for a condition before it fails.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What a store can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Redis,
    Postgres,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Sqlite, Self::Redis, Self::Postgres];
    pub const SERVERS: [Self; 2] = [Self::Redis, Self::Postgres];
}

/// A server of this test's own, or a file, gone when it is dropped.
pub struct Backend {
    pub kind: Kind,
    pub port: u16,
    process: Option<Child>,
    settings: Vec<String>,
    /// Whether the directory is a small separate disk.
    small: bool,
    /// A library that gives the server another time, and which.
    clock: Option<(PathBuf, String)>,
    /// What makes the disk slow on demand, where that is possible.
    slow_disk: Option<SlowDisk>,
    dir: TempDir,
}

/// `PostgreSQL` refuses to run as root.
const NOBODY: u32 = 65534;

impl Backend {
    pub fn start(kind: Kind) -> Self {
        Self::with_settings(kind, &[])
    }

    /// With further arguments of the server's command line.
    pub fn with_settings(kind: Kind, settings: &[&str]) -> Self {
        Self::in_dir(kind, settings, false, false)
    }

    /// On a small disk, which is soon full.
    pub fn on_small_disk(kind: Kind, settings: &[&str]) -> Self {
        Self::in_dir(kind, settings, true, false)
    }

    /// With a disk that can be made slow.
    pub fn with_slow_disk(kind: Kind, settings: &[&str]) -> Self {
        Self::in_dir(kind, settings, false, true)
    }

    /// With a clock of the server's own, as libfaketime says.
    pub fn with_clock(kind: Kind, libfaketime: &Path, time: &str) -> Self {
        let mut backend = Self::unstarted(kind, &[]);
        backend.clock = Some((libfaketime.to_owned(), time.to_owned()));
        backend.start_first();
        backend
    }

    /// Kills the server, keeps what it has written, and starts it with the right clock.
    pub fn set_clock_right(&mut self) {
        if self.clock.take().is_some() {
            self.kill();
            self.start_again();
        }
    }

    fn in_dir(kind: Kind, settings: &[&str], small: bool, slow: bool) -> Self {
        let mut backend = Self::unstarted(kind, settings);
        backend.small = small;
        if slow {
            backend.slow_disk = Some(SlowDisk::new(backend.dir()));
        }
        if small {
            as_root("mount", &["-t", "tmpfs", "-o", "size=100m", "tmpfs"], backend.dir());
        }
        backend.start_first();
        backend
    }

    fn unstarted(kind: Kind, settings: &[&str]) -> Self {
        let settings = settings.iter().map(ToString::to_string).collect();
        let (process, dir) = (None, TempDir::new());
        Self { kind, port: 0, process, settings, small: false, clock: None, slow_disk: None, dir }
    }

    fn start_first(&mut self) {
        if self.kind == Kind::Postgres {
            tokio::task::block_in_place(|| self.init_postgres());
        }
        if self.kind != Kind::Sqlite {
            tokio::task::block_in_place(|| self.start_on_a_free_port());
        }
    }

    fn init_postgres(&self) {
        if is_root() {
            chown(self.dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut init = Command::new(postgres_binary("initdb"));
        init.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"]).arg(self.data());
        let output = as_nobody(&mut init).output().unwrap();
        assert!(output.status.success(), "initdb: {output:?}");
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn start_on_a_free_port(&mut self) {
        // Another process may take the port before the server does.
        for _ in 0..5 {
            self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if self.spawn() {
                return;
            }
        }
        panic!("the server does not start: {}", self.log());
    }

    /// Starts the server on the port that it had.
    pub fn start_again(&mut self) {
        assert!(self.spawn(), "the server ended: {}", self.log());
    }

    /// `false`: it ended at once.
    fn spawn(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = match self.kind {
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(self.dir.path());
                command
            }
            Kind::Postgres => {
                let mut command = Command::new(postgres_binary("postgres"));
                command.arg("-D").arg(self.data()).args(["-p", &port, "-c", "listen_addresses=127.0.0.1"]);
                command.args(["-c", "unix_socket_directories="]);
                as_nobody(&mut command);
                command
            }
            Kind::Sqlite => panic!("SQLite has no server"),
        };
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        if let Some(disk) = &self.slow_disk {
            disk.preload(&mut command);
        }
        if let Some((library, time)) = &self.clock {
            command.env("LD_PRELOAD", library).env("FAKETIME", time);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        }
        command.args(&self.settings).stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        let mut process = command.spawn().expect("the server is installed; `bash tests/run` installs it");
        let start = Instant::now();
        while !self.answers(&process) {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(process);
        true
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        let mut text = String::new();
        File::open(self.dir.path().join("log")).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Whether this process answers, and not another that came before it to the port.
    fn answers(&self, process: &Child) -> bool {
        match self.kind {
            Kind::Redis => {
                let id = format!("process_id:{}\r\n", process.id());
                self.redis(&["INFO", "server"]).is_some_and(|info| info.contains(&id))
            }
            // Written once it is there for everybody.
            Kind::Postgres => {
                let status = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
                status.starts_with(&format!("{}\n", process.id())) && status.contains("\nready")
            }
            Kind::Sqlite => true,
        }
    }

    /// Where the server is, or where a proxy to it is.
    pub fn url_at(&self, port: u16) -> String {
        match self.kind {
            Kind::Sqlite => format!("sqlite:{}", self.file().display()),
            Kind::Redis => format!("redis://127.0.0.1:{port}"),
            Kind::Postgres => format!("postgres://postgres@127.0.0.1:{port}/postgres"),
        }
    }

    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("events.sqlite")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes until the small disk is full, into a file that gives way again when it is deleted.
    pub fn fill_disk(&self) -> PathBuf {
        assert!(self.small, "only a small disk is filled");
        let path = self.dir().join("filling");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }

    pub fn slow_disk(&self) -> Option<&SlowDisk> {
        self.slow_disk.as_ref()
    }

    /// A store in it, and dead letters.
    pub fn stores(&self) -> (Arc<dyn DedupStore>, Arc<dyn DeadLetters>) {
        let store = self.store();
        let letters = store.dead_letters().unwrap();
        (store, letters)
    }

    pub fn store(&self) -> Arc<dyn DedupStore> {
        match self.kind {
            Kind::Sqlite => Arc::new(SqliteStore::open(self.file()).unwrap()),
            Kind::Redis => Arc::new(RedisStore::open(&self.url()).unwrap()),
            Kind::Postgres => Arc::new(PostgresStore::open(&self.url()).unwrap()),
        }
    }

    /// Kills the server with everything that it has started.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            for pid in self::processes(&process) {
                signal(pid, "KILL");
            }
            process.wait().unwrap();
            // PostgreSQL's processes share memory that outlives the first of them for a moment.
            let start = Instant::now();
            while TcpStream::connect(self.addr()).is_ok() {
                assert!(start.elapsed() < PATIENCE, "a killed server goes on answering");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    pub fn pause(&self) {
        self.signal_all("STOP");
    }

    pub fn resume(&self) {
        self.signal_all("CONT");
    }

    fn signal_all(&self, name: &str) {
        for pid in processes(self.process.as_ref().unwrap()) {
            signal(pid, name);
        }
    }

    /// Runs a command of redis-cli.
    pub fn redis(&self, command: &[&str]) -> Option<String> {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// Runs a statement, in SQLite or PostgreSQL, and returns its rows.
    pub fn sql(&self, statement: &str) -> String {
        let mut command = match self.kind {
            Kind::Sqlite => {
                let mut command = Command::new("sqlite3");
                command.args(["-cmd", ".timeout 5000"]).arg(self.file());
                command
            }
            Kind::Postgres => {
                let mut command = Command::new("psql");
                command.args(["-v", "ON_ERROR_STOP=1", "-qAt", &self.url(), "-c"]);
                command
            }
            Kind::Redis => panic!("Redis knows no SQL"),
        };
        let output = command.arg(statement).output().unwrap();
        assert!(output.status.success(), "{statement}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
        if self.small {
            as_root("umount", &["--lazy"], self.dir());
        }
    }
}

/// The library that gives a process another time: see its manual for `FAKETIME`.
pub fn libfaketime() -> PathBuf {
    let name = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(Path::new(&name).exists(), "{name} is installed; `bash tests/run` installs it");
    name.into()
}

/// A library that makes syncing slow, and the file that switches it on.
pub struct SlowDisk {
    library: PathBuf,
    flag: PathBuf,
}

impl SlowDisk {
    fn new(dir: &Path) -> Self {
        let (library, flag) = (dir.join("slow_disk.so"), dir.join("slow"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/slow_disk.c");
        let mut compiler = Command::new("cc");
        let output = compiler.args(["-shared", "-fPIC", source, "-ldl", "-o"]).arg(&library).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { library, flag }
    }

    pub fn preload(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("SLOW_DISK", &self.flag);
    }

    pub fn set(&self, slow: bool) {
        if slow {
            File::create(&self.flag).unwrap();
        } else {
            let _ = std::fs::remove_file(&self.flag);
        }
    }
}

fn as_root(program: &str, arguments: &[&str], path: &Path) {
    let mut command = if is_root() { Command::new("env") } else { Command::new("sudo") };
    let output = command.arg(program).args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A process and its children.
fn processes(process: &Child) -> Vec<u32> {
    let children = format!("/proc/{0}/task/{0}/children", process.id());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    std::iter::once(process.id()).chain(children).collect()
}

pub fn signal(pid: u32, name: &str) {
    let signal = format!("-{name}");
    Command::new("kill").args([&signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

pub fn as_nobody(command: &mut Command) -> &mut Command {
    if is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

/// Debian keeps the server's programs away from the path.
fn postgres_binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin").join(name)).collect();
    places.sort();
    places.into_iter().rfind(|place| place.exists()).unwrap_or_else(|| name.into())
}

/// A directory that is deleted when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("sendarix-stores-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
