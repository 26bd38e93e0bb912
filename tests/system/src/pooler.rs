//! `PgBouncer`, between a store and its server.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::{Backend, as_nobody, eventually};

/// A real pooler in transaction mode, with fewer connections to the server than the store has to it, so that the
/// statements of one connection run on changing ones.
pub struct PgBouncer(Child);

impl PgBouncer {
    pub async fn start(backend: &Backend, setting: &str) -> (Self, String) {
        // Another process may take the port before the pooler does.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut pooler = Self(Self::spawn(port, backend, setting));
            eventually("the pooler listens", || async { TcpStream::connect(("127.0.0.1", port)).is_ok() }).await;
            if pooler.0.try_wait().unwrap().is_none() {
                return (pooler, format!("postgres://postgres@127.0.0.1:{port}/postgres"));
            }
        }
        panic!("the pooler does not start");
    }

    fn spawn(port: u16, backend: &Backend, setting: &str) -> Child {
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n{setting}\n",
            backend.port
        );
        let path = backend.dir().join("pgbouncer.ini");
        std::fs::write(&path, settings).unwrap();
        let mut command = Command::new("pgbouncer");
        let command = as_nobody(command.arg("-q").arg(&path)).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("pgbouncer is installed; `bash tests/run` installs it")
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
