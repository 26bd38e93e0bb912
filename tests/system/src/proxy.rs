//! A proxy between an application and its store, which breaks things on demand and counts round trips.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is wrong with the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every connection is reset, as soon as it is there.
    Reset,
    /// What is sent arrives nowhere, in either direction, and no connection ends.
    Silence,
    /// What the application sends arrives; what is answered does not, and the connection is reset.
    RepliesLost,
    /// Nothing passes from the moment that the application sends this text, which does not pass either.
    HeldBefore(&'static str),
    /// What is sent with this text arrives, and nothing afterwards in either direction.
    HeldAfter(&'static str),
    /// What is sent with this text arrives, and then the connection is reset.
    ReplyLostTo(&'static str),
}

pub struct Proxy {
    pub port: u16,
    fault: Arc<watch::Sender<Fault>>,
    target: Arc<watch::Sender<SocketAddr>>,
    round_trips: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
}

struct Link {
    fault: watch::Receiver<Fault>,
    round_trips: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    last: Arc<watch::Sender<Last>>,
}

/// Whether the last that passes has been sent, and what the server does about it has been done.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    NotYet,
    Sent,
    Done,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let target = Arc::new(watch::Sender::new(target));
        let to = target.subscribe();
        let (round_trips, held) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (counted, holding) = (round_trips.clone(), held.clone());
        let proxy = Self { port, fault: fault.clone(), target, round_trips: counted, held: holding };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let link = Link {
                    fault: fault.subscribe(),
                    round_trips: round_trips.clone(),
                    held: held.clone(),
                    last: Arc::new(watch::Sender::new(Last::NotYet)),
                };
                tokio::spawn(link.serve(client, *to.borrow()));
            }
        });
        proxy
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Sends every further connection elsewhere.
    pub fn redirect(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// How often the application has sent something and was answered.
    pub fn round_trips(&self) -> usize {
        self.round_trips.load(Ordering::SeqCst)
    }

    /// How many connections are held at a text.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }
}

/// Resets every connection.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Fault::Reset);
    }
}

impl Link {
    async fn serve(self, client: TcpStream, target: SocketAddr) {
        client.set_nodelay(true).unwrap();
        let mut fault = self.fault.clone();
        let resets = |fault: &Fault| *fault == Fault::Reset;
        if resets(&fault.borrow()) {
            return drop(client.set_zero_linger());
        }
        let Ok(server) = TcpStream::connect(target).await else { return drop(client.set_zero_linger()) };
        server.set_nodelay(true).unwrap();
        // Dropped without a linger: the application sees a reset, and not an orderly end.
        client.set_zero_linger().unwrap();
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let asked = AtomicUsize::new(0);
        tokio::select! {
            () = self.requests(from_client, to_server, &asked) => {}
            () = self.replies(from_server, to_client, &asked) => {}
            _ = fault.wait_for(resets) => {}
        }
    }

    async fn requests(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, asked: &AtomicUsize) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let sent = &bytes[..count];
            let fault = self.fault.borrow().clone();
            let contains = |text: &str| sent.windows(text.len()).any(|part| part == text.as_bytes());
            match fault {
                Fault::HeldBefore(text) if contains(text) => return self.hold().await,
                Fault::HeldAfter(text) if contains(text) => {
                    self.send_last(&mut to, sent).await;
                    return self.hold().await;
                }
                Fault::ReplyLostTo(text) if contains(text) => return self.send_last(&mut to, sent).await,
                _ => {}
            }
            self.while_silent().await;
            asked.store(1, Ordering::SeqCst);
            if to.write_all(sent).await.is_err() {
                return;
            }
        }
    }

    async fn replies(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, asked: &AtomicUsize) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            self.while_silent().await;
            if *self.last.borrow() == Last::Sent {
                self.last.send_replace(Last::Done);
                return std::future::pending().await;
            }
            if *self.fault.borrow() == Fault::RepliesLost {
                return;
            }
            self.round_trips.fetch_add(asked.swap(0, Ordering::SeqCst), Ordering::SeqCst);
            if to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    }

    /// Sends something, and waits until the server has answered it.
    async fn send_last(&self, to: &mut OwnedWriteHalf, sent: &[u8]) {
        self.last.send_replace(Last::Sent);
        to.write_all(sent).await.unwrap();
        self.last.subscribe().wait_for(|last| *last == Last::Done).await.unwrap();
    }

    async fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }

    async fn while_silent(&self) {
        let mut fault = self.fault.clone();
        let _ = fault.wait_for(|fault| *fault != Fault::Silence).await;
    }
}
