//! A real proxy in front of two servers: unsigned requests must not make it take the servers for broken.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use reqwest::{Client, RequestBuilder};
use sendarix_webhooks::EventType;
use sendarix_webhooks::testing::{Sample, signed_headers};
use tokio::task::JoinSet;

use crate::support::{Instance, TempDir, eventually, program, secret};

/// nginx with its defaults: a server that fails once gets nothing for ten seconds.
struct Nginx {
    process: Child,
    url: String,
    dir: TempDir,
}

impl Nginx {
    async fn start(backends: &[Instance], settings: &str) -> Self {
        let dir = TempDir::new();
        let servers: String =
            backends.iter().map(|backend| format!("server {};\n", backend.url().split('/').nth(2).unwrap())).collect();
        let path = dir.path().display();
        for _ in 0..5 {
            // Another process may take the port before nginx does.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "user root;\ndaemon off;\nworker_processes 1;\npid {path}/pid;\nerror_log {path}/error.log info;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{\naccess_log {path}/access.log;\nclient_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\n\
                 fastcgi_temp_path {path}/f;\nuwsgi_temp_path {path}/u;\nscgi_temp_path {path}/s;\n\
                 upstream webhooks {{\n{servers}}}\n\
                 server {{\nlisten 127.0.0.1:{port};\nclient_max_body_size 10m;\n\
                 location / {{ proxy_pass http://webhooks; {settings} }}\n}}\n}}\n"
            );
            std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
            let mut nginx = Command::new("nginx");
            let nginx = nginx.arg("-p").arg(dir.path()).args(["-e", "error.log", "-c", "nginx.conf"]);
            let process = nginx.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut process = process.expect("nginx is installed; `bash tests/run` installs it");
            let listens = || async { std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() };
            eventually("nginx listens", listens).await;
            if process.try_wait().unwrap().is_none() {
                let path = backends[0].url().splitn(4, '/').nth(3).unwrap();
                return Self { process, url: format!("http://127.0.0.1:{port}/{path}"), dir };
            }
        }
        panic!("nginx does not start: {}", std::fs::read_to_string(dir.path().join("error.log")).unwrap_or_default());
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("error.log")).unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master's workers end with it on this signal.
        crate::support::signal(self.process.id(), "TERM");
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_requests_do_not_take_the_endpoint_down_behind_nginx() {
    for (name, settings) in [
        ("as it comes, with HTTP/1.0 and the body buffered", ""),
        ("the body passed on as it comes", "proxy_request_buffering off; proxy_http_version 1.1;"),
        ("with connections that are kept", "proxy_http_version 1.1; proxy_set_header Connection '';"),
    ] {
        let places = [TempDir::new(), TempDir::new()];
        let backends = places.each_ref().map(|place| {
            let mut command = Command::new(program("production-example"));
            command.env("LISTEN", "127.0.0.1:0").current_dir(place.path());
            Instance::of_command("production-example", &mut command, &[])
        });
        let nginx = Nginx::start(&backends, settings).await;
        // A client for each: nginx ends a connection that it has answered early, and the next request on it is lost.
        let client = || Client::builder().timeout(Duration::from_secs(15)).build().unwrap();
        let (sendarix, stranger) = (client(), client());
        let mut unsigned = JoinSet::new();
        let url = nginx.url.clone();
        unsigned.spawn(async move {
            let mut answers = Vec::new();
            for kilobytes in [20, 50, 100, 200, 5000].into_iter().cycle().take(60) {
                answers.push(status_of(stranger.post(&url).body(vec![b' '; kilobytes * 1000])).await);
            }
            answers
        });
        let mut real = Vec::new();
        for number in 0..100 {
            let body = Sample::new(EventType::Open).event_id(format!("evt_{number}")).body();
            let mut request = sendarix.post(&nginx.url);
            for (name, value) in signed_headers(&secret(), &body, SystemTime::now()) {
                request = request.header(name, value);
            }
            real.push(status_of(request.body(body)).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let unsigned = unsigned.join_all().await.concat();
        assert!(real.iter().all(|answer| *answer == Ok(200)), "{name}: {real:?}: {}", nginx.errors());
        // Their client may miss the answer on a connection that nginx ends.
        let answered = unsigned.iter().filter(|answer| **answer == Ok(401)).count();
        let expected = |answer: &Result<u16, String>| answer.is_err() || *answer == Ok(401);
        assert!(unsigned.iter().all(expected) && answered > 50, "{name}: {unsigned:?}: {}", nginx.errors());
    }
}

/// The status of an answer, or why there was none, with its causes.
async fn status_of(request: RequestBuilder) -> Result<u16, String> {
    request.send().await.map(|answer| answer.status().as_u16()).map_err(|error| format!("{error:?}"))
}
