//! A load generator that renders nothing while it is timed.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Event;

pub const CONNECTIONS: usize = 32;
const REQUESTS: usize = 500;

/// How many requests a round has.
pub const LOAD: usize = CONNECTIONS * REQUESTS;

/// The requests of a round, each with a new event.
pub fn requests(round: usize) -> Arc<Vec<Vec<u8>>> {
    Arc::new((round * LOAD..(round + 1) * LOAD).map(|id| Event::bounce(id).request()).collect())
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
pub async fn load(addr: SocketAddr, requests: &Arc<Vec<Vec<u8>>>) -> Duration {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        connections.push(stream);
    }
    let start = Instant::now();
    let mut senders = JoinSet::new();
    for (connection, mut stream) in connections.into_iter().enumerate() {
        let requests = Arc::clone(requests);
        senders.spawn(async move {
            let mut answer = [0; 1024];
            for request in &requests[connection * REQUESTS..][..REQUESTS] {
                stream.write_all(request).await.unwrap();
                // Every answer says how long its body is, and is so small that it comes in one piece.
                let read = stream.read(&mut answer).await.unwrap();
                assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
            }
        });
    }
    senders.join_all().await;
    start.elapsed()
}
