//! The live page in a real browser, by real clicks and keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::missing_panics_doc)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, SigningSecret};
use sendarix_webhooks_system_tests::{TempDir, program};
use serde_json::{Value, json};

const SECRET: &str = "a secret for tests";
const PATIENCE: Duration = Duration::from_secs(40);

/// A process that is killed when it is dropped, with all that it has started.
struct Process(Child);

impl Process {
    fn spawn(command: &mut Command) -> std::io::Result<Self> {
        command.process_group(0).spawn().map(Self)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// The example, and a browser that looks at it.
struct Page {
    browser: Client,
    webhook: String,
    _dir: TempDir,
    _processes: [Process; 2],
}

impl Page {
    async fn open(width: u32, is_dark: bool) -> Self {
        let dir = TempDir::new();
        let mut command = Command::new(program("live-page-example"));
        command.env("LISTEN", "127.0.0.1:0").current_dir(dir.path()).env("SENDARIX_WEBHOOK_SECRET", SECRET);
        let mut server = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null())).unwrap();
        let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let webhook = lines.find_map(|line| line.split_once("listening on ").map(|(_, url)| url.to_owned())).unwrap();
        std::thread::spawn(move || lines.for_each(drop));

        // It chooses the port itself: one that is free now may be taken when it starts.
        let mut command = Command::new("chromedriver");
        let command = command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = Process::spawn(command).expect("chromedriver is installed; `bash tests/run` installs it");
        let mut lines = BufReader::new(driver.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let port = lines.find_map(|line| Some(line.split_once("started successfully on port ")?.1.replace('.', "")));
        let port = port.expect("chromedriver says where it listens");
        std::thread::spawn(move || lines.for_each(drop));
        let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(!is_dark));
        let size = format!("--window-size={width},900");
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &size, &scheme];
        let mut options = json!({ "args": arguments });
        // No window is narrower than 500 points, but a phone is.
        if width < 500 {
            let screen = json!({ "width": width, "height": 740, "pixelRatio": 3.0, "touch": true });
            options["mobileEmulation"] = json!({ "deviceMetrics": screen });
        }
        let capabilities = json!({ "goog:chromeOptions": options });
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        let builder = builder.capabilities(capabilities.as_object().unwrap().clone());
        let browser = builder.connect(&format!("http://127.0.0.1:{port}")).await.unwrap();
        browser.goto(webhook.strip_suffix("/webhooks/sendarix").unwrap()).await.unwrap();
        let page = Self { browser, webhook, _dir: dir, _processes: [server, driver] };
        page.until("the page is live", "return document.getElementById('connection')?.textContent === 'live'").await;
        // A page that is loaded again would forget this.
        page.script("window.sameVisit = true").await;
        page
    }

    async fn script(&self, script: &str) -> Value {
        self.browser.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until a script returns `true`.
    async fn until(&self, what: &str, script: &str) {
        let start = Instant::now();
        while self.script(script).await != true {
            if start.elapsed() > PATIENCE {
                panic!("never: {what}\n{}", self.script("return document.body.innerText").await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn send(&self, sample: &Sample) -> u16 {
        let (body, mut request) = (sample.body(), reqwest::Client::new().post(&self.webhook));
        for (name, value) in signed_headers(&SigningSecret::new(SECRET).unwrap(), &body, SystemTime::now()) {
            request = request.header(name, value);
        }
        request.body(body).send().await.unwrap().status().as_u16()
    }

    async fn status_is(&self, message: &str, status: &str) {
        let item = format!("document.querySelector('#messages [data-id=\"{message}\"]')");
        let shown = format!("return {item}?.dataset.status === '{status}'");
        self.until(&format!("{message} is {status}"), &shown).await;
    }

    async fn click(&self, css: &str) {
        self.browser.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    async fn letters_are(&self, count: usize) {
        let script = format!("return document.querySelectorAll('#letters li').length === {count}");
        self.until(&format!("there are {count} dead letters"), &script).await;
    }

    async fn close(self) {
        assert_eq!(self.script("return window.sameVisit").await, true, "it was never loaded again");
        self.browser.clone().close().await.unwrap();
    }
}

fn sample(event_type: EventType, message: &str) -> Sample {
    Sample::new(event_type).message_id(message).recipient(format!("{message}@example.com"))
}

#[tokio::test]
async fn a_status_moves_from_accepted_to_delivered_without_a_reload() {
    let page = Page::open(1200, false).await;
    assert_eq!(page.send(&sample(EventType::Accepted, "msg_1")).await, 200);
    page.status_is("msg_1", "accepted").await;
    assert_eq!(page.send(&sample(EventType::Delivered, "msg_1")).await, 200);
    page.status_is("msg_1", "delivered").await;
    // A late one takes nothing back.
    assert_eq!(page.send(&sample(EventType::Deferred, "msg_1")).await, 200);
    assert_eq!(page.send(&sample(EventType::Open, "msg_1")).await, 200);
    page.until("it is opened", "return document.querySelector('.mark.opened') !== null").await;
    page.status_is("msg_1", "delivered").await;
    page.until("every event is listed", "return document.querySelectorAll('#events li').length === 4").await;
    assert_eq!(page.script("return document.querySelectorAll('#messages li').length").await, 1);
    page.close().await;
}

#[tokio::test]
async fn each_rate_turns_red_above_its_line() {
    let page = Page::open(1200, false).await;
    for number in 0..9 {
        page.send(&sample(EventType::Delivered, &format!("msg_{number}"))).await;
    }
    let label = |name: &str| format!("document.querySelector('#{name} svg').getAttribute('aria-label')");
    let is_red = |name: &str| format!("return document.getElementById('{name}').classList.contains('over')");
    let shows = |name: &str, text: &str| format!("return {} === '{text}'", label(name));
    page.until("nothing has bounced", &shows("bounces", "0.00 %, limit 5.00 %")).await;
    page.until("there are no complaints", &shows("complaints", "0.00 %, limit 0.10 %")).await;
    for name in ["bounces", "complaints"] {
        assert_eq!(page.script(&is_red(name)).await, false, "{name}");
    }
    page.send(&sample(EventType::Bounce, "msg_9")).await;
    page.send(&sample(EventType::Complaint, "msg_1")).await;
    page.until("one of ten bounced", &shows("bounces", "10.00 %, limit 5.00 %")).await;
    page.until("one of nine complained", &shows("complaints", "11.11 %, limit 0.10 %")).await;
    for name in ["bounces", "complaints"] {
        assert_eq!(page.script(&is_red(name)).await, true, "{name}");
        // Higher up is a smaller number.
        let last = |class: &str| {
            format!("document.querySelector('#{name} .{class}').getAttribute('points').split(/[ ,]/).map(Number)")
        };
        let above = format!("return {}[1] < {}[1]", last("values"), last("limit"));
        assert_eq!(page.script(&above).await, true, "{name}");
        let texts = format!(
            "return [...document.querySelectorAll('#{name} .time')].map(text => text.textContent).filter(text => /\\d:\\d\\d/.test(text)).length"
        );
        assert_eq!(page.script(&texts).await, 2, "{name}: the axis has times");
        let ticks = format!(
            "return [...document.querySelectorAll('#{name} .tick')].every(text => text.textContent.endsWith(' %'))"
        );
        assert_eq!(page.script(&ticks).await, true, "{name}: the axis has rates");
    }
    page.close().await;
}

#[tokio::test]
async fn a_suppressed_address_is_released_by_a_click() {
    let page = Page::open(1200, false).await;
    let recipient = "<img src=x onerror=alert(1)>@example.com";
    page.send(&Sample::new(EventType::Bounce).message_id("msg_1").recipient(recipient)).await;
    page.send(&sample(EventType::Complaint, "msg_2")).await;
    let count = |count: usize| format!("return document.querySelectorAll('#suppressions li').length === {count}");
    page.until("both are on the list", &count(2)).await;
    assert_eq!(page.script("return document.querySelectorAll('#suppressions img').length").await, 0);
    assert_eq!(page.script("return document.getElementById('no-suppressions').hidden").await, true);
    page.click("[data-release='msg_2@example.com']").await;
    page.until("one is left", &count(1)).await;
    let said = "return document.getElementById('released').textContent === 'msg_2@example.com: may be mailed again'";
    page.until("it says so", said).await;
    page.close().await;
}

#[tokio::test]
async fn a_recipient_is_found_by_the_keyboard() {
    let page = Page::open(1200, false).await;
    for event_type in [EventType::Accepted, EventType::Delivered, EventType::Complaint] {
        page.send(&sample(event_type, "msg_1")).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    page.send(&sample(EventType::Accepted, "msg_2")).await;
    let address = page.browser.find(Locator::Id("address")).await.unwrap();
    address.send_keys(&format!("MSG_1@Example.com{}", char::from(Key::Enter))).await.unwrap();
    page.until(
        "it is suppressed",
        "return document.querySelector('#found .suppressed')?.textContent.includes('complaint')",
    )
    .await;
    let types = "return [...document.querySelectorAll('#found > .timeline strong')].map(event => event.textContent)";
    assert_eq!(page.script(types).await, json!(["complaint", "delivered", "accepted"]), "the newest first");
    let messages = "return [...document.querySelectorAll('#found > ul > li')].map(message => message.dataset.id)";
    assert_eq!(page.script(messages).await, json!(["msg_1"]));
    address.clear().await.unwrap();
    address.send_keys(&format!("nobody@example.com{}", char::from(Key::Enter))).await.unwrap();
    page.until(
        "another may be mailed",
        "return document.getElementById('found').innerText.startsWith('May be mailed')",
    )
    .await;
    page.close().await;
}

#[tokio::test]
async fn a_message_shows_its_timeline_and_keeps_it_open() {
    let page = Page::open(1200, false).await;
    page.send(&sample(EventType::Accepted, "msg_1")).await;
    page.send(&sample(EventType::Accepted, "msg_2").recipient("msg_1@example.com")).await;
    page.status_is("msg_2", "accepted").await;
    page.click("#messages [data-id=msg_1] button").await;
    let events = |count: usize| {
        format!("return document.querySelectorAll('#messages [data-id=msg_1] .timeline li').length === {count}")
    };
    page.until("its own event is there", &events(1)).await;
    page.send(&sample(EventType::Delivered, "msg_1")).await;
    page.until("the next is added", &events(2)).await;
    page.status_is("msg_1", "delivered").await;
    page.click("#messages [data-id=msg_1] button").await;
    page.until("it is closed", &events(0)).await;
    page.close().await;
}

#[tokio::test]
async fn a_dead_letter_is_redriven_by_a_click() {
    let page = Page::open(1200, false).await;
    let broken = Sample::new(EventType::Delivered).event_id("evt_broken").message_id("msg_broken");
    // Nothing that comes from outside is taken for a part of the page.
    let broken = broken.recipient("<img src=x onerror=alert(1)>@broken.example");
    assert_eq!(page.send(&broken).await, 200);
    page.letters_are(1).await;
    page.click("[data-redrive=evt_broken]").await;
    let said = |text: &str| format!("return document.getElementById('said').textContent === '{text}'");
    page.until("it is still broken", &said("evt_broken: failed permanently")).await;
    page.until("it was tried twice", "return document.getElementById('letters').innerText.includes('2 attempts')")
        .await;
    page.click("#mended").await;
    page.until("it is ticked", "return document.getElementById('mended').dataset.known === 'true'").await;
    page.click("[data-redrive=evt_broken]").await;
    page.until("it is handled", &said("evt_broken: processed")).await;
    page.letters_are(0).await;
    page.status_is("msg_broken", "delivered").await;
    assert_eq!(page.script("return document.querySelectorAll('#messages img').length").await, 0);
    assert_eq!(page.send(&broken).await, 200);
    page.click("#mended").await;
    page.until("it is not ticked", "return document.getElementById('mended').dataset.known === 'false'").await;
    let other = Sample::new(EventType::Delivered).event_id("evt_other").recipient("a@broken.example");
    assert_eq!(page.send(&other).await, 200);
    page.letters_are(1).await;
    page.click("[data-discard=evt_other]").await;
    page.until("it is discarded", &said("evt_other: discarded")).await;
    page.letters_are(0).await;
    page.close().await;
}

/// With the keyboard alone: the link past everything, the box, the button; and the focus is not lost with the letter.
#[tokio::test]
async fn everything_can_be_done_with_the_keyboard() {
    let page = Page::open(1200, false).await;
    for id in ["evt_a", "evt_b"] {
        page.send(&Sample::new(EventType::Delivered).event_id(id).recipient("a@broken.example")).await;
    }
    page.letters_are(2).await;
    let press = async |key: Key| {
        let active = page.browser.active_element().await.unwrap();
        active.send_keys(&char::from(key).to_string()).await.unwrap();
    };
    press(Key::Tab).await;
    page.until("the link is first", "return document.activeElement.className === 'skip'").await;
    press(Key::Enter).await;
    page.until("it leads there", "return document.activeElement.id === 'letters-title'").await;
    press(Key::Tab).await;
    page.until("the box is next", "return document.activeElement.id === 'mended'").await;
    press(Key::Space).await;
    page.until("it is ticked", "return document.activeElement.dataset.known === 'true'").await;
    press(Key::Tab).await;
    page.until("then the button", "return document.activeElement.dataset.redrive === 'evt_a'").await;
    press(Key::Enter).await;
    page.letters_are(1).await;
    page.until("the focus stays near", "return document.activeElement.id === 'letters-title'").await;
    let outline = "return getComputedStyle(document.activeElement).outlineStyle !== 'none'";
    press(Key::Tab).await;
    page.until("the focus can be seen", outline).await;
    page.close().await;
}

#[tokio::test]
async fn it_fits_a_phone_and_follows_the_dark_scheme() {
    let mut grounds = Vec::new();
    for is_dark in [false, true] {
        let page = Page::open(360, is_dark).await;
        let long = format!("msg_{}", "x".repeat(200));
        page.send(&sample(EventType::Accepted, &long)).await;
        page.send(&Sample::new(EventType::Open).event_id("y".repeat(200)).recipient("a@broken.example")).await;
        page.letters_are(1).await;
        page.status_is(&long, "accepted").await;
        page.send(&sample(EventType::Bounce, &long)).await;
        page.until("it is suppressed", "return document.querySelectorAll('#suppressions li').length === 1").await;
        page.click("#messages button").await;
        let address = page.browser.find(Locator::Id("address")).await.unwrap();
        address.send_keys(&format!("{long}@example.com{}", char::from(Key::Enter))).await.unwrap();
        page.until("it is found", "return document.querySelector('#found .suppressed') !== null").await;
        assert_eq!(page.script("return document.documentElement.clientWidth").await, 360);
        let wide = "return [...document.querySelectorAll('body *')].filter(e => !e.closest('svg') && !e.closest('.skip') && e.getBoundingClientRect().right > document.body.getBoundingClientRect().right + 1).map(e => e.outerHTML.slice(0, 99))";
        assert_eq!(page.script(wide).await, json!([]), "nothing is wider than a phone");
        assert_eq!(
            page.script("return document.querySelector('button').getBoundingClientRect().height >= 40").await,
            true
        );
        grounds.push(page.script("return getComputedStyle(document.body).backgroundColor").await);
        page.close().await;
    }
    assert_eq!(grounds, ["rgb(246, 247, 249)", "rgb(20, 23, 28)"]);
}

/// Another site's form can send none of this, and its script is not allowed to: no preflight is answered.
#[tokio::test]
async fn another_site_changes_nothing() {
    let page = Page::open(1200, false).await;
    assert_eq!(page.send(&sample(EventType::Bounce, "msg_1")).await, 200);
    let client = reqwest::Client::new();
    for (path, body) in [
        ("/mended", r#"{"is_mended":true}"#),
        ("/release", r#"{"address":"msg_1@example.com"}"#),
        ("/letters/redrive-all", "{}"),
    ] {
        let url = page.webhook.replace("/webhooks/sendarix", path);
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let request = client.post(&url).header("content-type", content_type);
            assert_eq!(request.body(body).send().await.unwrap().status(), 415, "{path}: {content_type}");
        }
        let preflight = client.request(reqwest::Method::OPTIONS, &url).header("origin", "https://example.org");
        let preflight = preflight.header("access-control-request-method", "POST").send().await.unwrap();
        assert!(preflight.headers().get("access-control-allow-origin").is_none(), "{path}");
    }
    for path in ["/", "/changes", "/recipient?address=msg_1@example.com", "/letters"] {
        let rebound = client.get(page.webhook.replace("/webhooks/sendarix", path)).header("host", "example.org:3000");
        assert_eq!(rebound.send().await.unwrap().status(), 403, "{path}: a name that leads here for a moment");
    }
    assert_eq!(page.script("return document.getElementById('mended').checked").await, false);
    page.until("it stays", "return document.querySelectorAll('#suppressions li').length === 1").await;
    page.close().await;
}
