//! A load generator that renders nothing while it is timed.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::slice;
use std::time::Duration;

use crate::{Event, timed};

pub const CONNECTIONS: usize = 32;
const REQUESTS: usize = 100;

/// How many requests a round has.
pub const LOAD: usize = CONNECTIONS * REQUESTS;

/// The requests of a round, each with a new event.
pub fn requests(round: usize) -> Vec<Vec<u8>> {
    (round * LOAD..(round + 1) * LOAD).map(|id| Event::bounce(id).request()).collect()
}

/// How long a process has run on any core, without the calling thread: of this process, the servers.
pub fn busy(process: u32) -> Duration {
    let ran = |schedstat: String| -> u64 { schedstat.split(' ').next().unwrap().parse().unwrap() };
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // A thread may end before it is asked.
    let all: u64 =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).ok()).map(ran).sum();
    let own =
        if process == std::process::id() { ran(fs::read_to_string("/proc/thread-self/schedstat").unwrap()) } else { 0 };
    Duration::from_nanos(all - own)
}

/// Sends the requests over connections that stay open, one after the other on each.
///
/// It asks its connections in turn and never sleeps: a server on this machine would pay for waking it, and a faster one,
/// which it has to keep up with, would pay less.
pub fn load(addr: SocketAddr, requests: &[Vec<u8>]) -> Duration {
    let mut connections: Vec<Connection<'_>> =
        requests.chunks(REQUESTS).map(|requests| Connection::open(addr, requests)).collect();
    timed(|| {
        connections.retain_mut(Connection::send);
        while !connections.is_empty() {
            connections.retain_mut(Connection::go_on);
        }
    })
}

struct Connection<'a> {
    stream: TcpStream,
    requests: slice::Iter<'a, Vec<u8>>,
}

impl<'a> Connection<'a> {
    fn open(addr: SocketAddr, requests: &'a [Vec<u8>]) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, requests: requests.iter() }
    }

    /// Sends the next request, if there is one.
    fn send(&mut self) -> bool {
        let request = self.requests.next();
        request.inspect(|request| self.stream.write_all(request).unwrap()).is_some()
    }

    /// Whether the connection has requests left.
    fn go_on(&mut self) -> bool {
        let mut answer = [0; 1024];
        match self.stream.read(&mut answer) {
            // Every answer says how long its body is, and is so small that it comes in one piece.
            Ok(read) => {
                assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
                self.send()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => panic!("the server has closed the connection: {error}"),
        }
    }
}
