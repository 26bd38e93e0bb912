//! A load generator that renders nothing while it is timed.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::slice;
use std::time::Duration;

use crate::{Event, timed};

pub const CONNECTIONS: usize = 32;
const REQUESTS: usize = 100;

/// How many requests of a turn are timed.
pub const TIMED_REQUESTS: usize = CONNECTIONS * REQUESTS;

/// The requests of a round, each with a new event: for every connection those that are timed, and one before them.
pub fn requests(round: usize) -> Vec<Vec<u8>> {
    let count = CONNECTIONS * (1 + REQUESTS);
    (round * count..(round + 1) * count).map(|id| Event::bounce(id).request()).collect()
}

/// What a turn took, and how long all threads of the server's process ran meanwhile, but for the one that sends.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub took: Duration,
    pub server_ran: Duration,
}

/// Sends the requests over connections that stay open, one after the other on each.
///
/// It asks its connections in turn and never sleeps. If it did, the server would pay for waking it.
pub fn load(addr: SocketAddr, requests: &[Vec<u8>], server_process: u32) -> Turn {
    let mut connections: Vec<Connection<'_>> =
        requests.chunks(1 + REQUESTS).map(|requests| Connection::open(addr, requests)).collect();
    let before = ran(server_process);
    let took = timed(|| {
        connections.retain_mut(Connection::send);
        while !connections.is_empty() {
            connections.retain_mut(Connection::go_on);
        }
    });
    Turn { took, server_ran: ran(server_process) - before }
}

/// How long a process has run on any core, but for the calling thread.
fn ran(process: u32) -> Duration {
    let nanoseconds = |schedstat: String| -> u64 { schedstat.split(' ').next().unwrap().parse().unwrap() };
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // A thread may end before it is asked.
    let schedstats = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).ok());
    let all: u64 = schedstats.map(nanoseconds).sum();
    let own = (process == std::process::id())
        .then(|| nanoseconds(fs::read_to_string("/proc/thread-self/schedstat").unwrap()));
    Duration::from_nanos(all - own.unwrap_or_default())
}

struct Connection<'a> {
    stream: TcpStream,
    requests: slice::Iter<'a, Vec<u8>>,
}

impl<'a> Connection<'a> {
    /// Once the first request is answered, the server has done all that it does for a connection.
    fn open(addr: SocketAddr, requests: &'a [Vec<u8>]) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = Self { stream, requests: requests.iter() };
        connection.send();
        assert!(connection.is_answered());
        connection.stream.set_nonblocking(true).unwrap();
        connection
    }

    /// Sends the next request, if there is one.
    fn send(&mut self) -> bool {
        let request = self.requests.next();
        request.inspect(|request| self.stream.write_all(request).unwrap()).is_some()
    }

    /// Whether the connection has requests left.
    fn go_on(&mut self) -> bool {
        !self.is_answered() || self.send()
    }

    fn is_answered(&mut self) -> bool {
        let mut answer = [0; 1024];
        match self.stream.read(&mut answer) {
            // Every answer says how long its body is, and is so small that it comes in one piece.
            Ok(read) => {
                let answer = &answer[..read];
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("the server has closed the connection: {error}"),
        }
    }
}
