//! What the page shows, and how its viewers learn of changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sendarix_webhooks::dead_letter::{ListedLetter, StoreError};
use sendarix_webhooks::mail::{Mail, MemoryMail, Message, SuppressionEntry};
use sendarix_webhooks::{Inbox, SendarixEvent, Timestamp};
use serde::Serialize;
use tokio::sync::broadcast;

/// How many of each are shown at most: the newest messages and events, the first letters by id and suppressions by address.
const MESSAGES: usize = 50;
const EVENTS: usize = 30;
const LETTERS: usize = 50;
const SUPPRESSIONS: usize = 50;
const POINTS: usize = 120;

/// How often the page is brought up to date.
const EVERY: Duration = Duration::from_secs(1);

const WINDOW: Duration = Duration::from_secs(60 * 60);

/// What every event is counted under.
const ALL: &str = "all";

pub(crate) struct Board {
    mail: Mail<MemoryMail>,
    inbox: Inbox,
    shown: Mutex<Shown>,
    changes: broadcast::Sender<Change>,
    /// Held while a message is read and shown: two events at the same time could otherwise show the older state last.
    showing: tokio::sync::Mutex<()>,
}

/// What a new viewer is told first.
#[derive(Clone, Default, Serialize)]
pub(crate) struct Shown {
    messages: VecDeque<MessageView>,
    events: VecDeque<EventView>,
    letters: Vec<LetterView>,
    suppressions: Vec<SuppressionView>,
    rates: VecDeque<Point>,
    is_mended: bool,
}

/// What a viewer who looks already is told.
#[derive(Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Change {
    Shown(Shown),
    Event { message: Option<MessageView>, event: EventView },
    Letters { letters: Vec<LetterView> },
    Suppressions { suppressions: Vec<SuppressionView> },
    Rates { point: Point },
    Mended { is_mended: bool },
}

#[derive(Clone, Serialize)]
pub(crate) struct MessageView {
    id: String,
    recipient: String,
    /// `None`: nothing is known of it but events of unknown types.
    status: Option<&'static str>,
    marks: Vec<&'static str>,
}

#[derive(Clone, Serialize)]
pub(crate) struct EventView {
    at: Timestamp,
    event_type: String,
    event_id: String,
    message_id: String,
}

#[derive(Clone, PartialEq, Serialize)]
pub(crate) struct LetterView {
    event_id: String,
    reason: String,
    error: String,
    attempts: u32,
    /// `None` if it cannot be read.
    last_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Serialize)]
pub(crate) struct SuppressionView {
    recipient: String,
    reason: &'static str,
    since: Timestamp,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct Point {
    at: i64,
    bounces: Option<f64>,
    complaints: Option<f64>,
}

/// What is known of one address.
#[derive(Serialize)]
pub(crate) struct Recipient {
    suppression: Option<SuppressionView>,
    messages: Vec<MessageView>,
    events: Vec<EventView>,
}

impl Board {
    pub(crate) fn new(inbox: Inbox) -> Self {
        let mail = Mail::builder(MemoryMail::default()).count_by(|_| Some(ALL.to_owned())).build();
        Self {
            mail: mail.expect("no setting is out of bounds"),
            inbox,
            shown: Mutex::default(),
            changes: broadcast::Sender::new(256),
            showing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn mail(&self) -> &Mail<MemoryMail> {
        &self.mail
    }

    pub(crate) fn is_mended(&self) -> bool {
        self.shown().is_mended
    }

    pub(crate) fn mend(&self, is_mended: bool) {
        self.shown().is_mended = is_mended;
        self.tell(Change::Mended { is_mended });
    }

    pub(crate) fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn viewer(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// There may be no viewer.
    fn tell(&self, change: Change) {
        let _ = self.changes.send(change);
    }

    /// Shows an event that was recorded, and its message as it is now.
    pub(crate) async fn show(&self, event: &SendarixEvent) -> Result<(), StoreError> {
        let _showing = self.showing.lock().await;
        let message = self.mail.message(&event.message_id, &event.recipient).await?.map(MessageView::from);
        let event = EventView::from(event);
        let mut shown = self.shown();
        if let Some(message) = &message {
            shown.messages.retain(|old| (&old.id, &old.recipient) != (&message.id, &message.recipient));
            keep(&mut shown.messages, message.clone(), MESSAGES);
        }
        keep(&mut shown.events, event.clone(), EVENTS);
        self.tell(Change::Event { message, event });
        Ok(())
    }

    /// The events of one message, the newest first.
    pub(crate) async fn timeline(&self, message_id: &str, address: &str) -> Result<Vec<EventView>, StoreError> {
        let (mut events, mut after) = (Vec::new(), None);
        loop {
            let page = self.mail.timeline(address, after.as_ref(), EVENTS).await?;
            events.extend(page.iter().filter(|event| event.message_id == message_id).map(EventView::from));
            after = page.last().cloned();
            if after.is_none() {
                return Ok(events);
            }
        }
    }

    pub(crate) async fn recipient(&self, address: &str) -> Result<Recipient, StoreError> {
        let messages = self.mail.messages_to(address, None, MESSAGES).await?;
        let events = self.mail.timeline(address, None, EVENTS).await?;
        Ok(Recipient {
            suppression: self.mail.suppression(address).await?.and_then(SuppressionView::new),
            messages: messages.into_iter().map(MessageView::from).collect(),
            events: events.iter().map(EventView::from).collect(),
        })
    }

    /// Brings the page up to date, for as long as the process runs.
    pub(crate) async fn refresh_regularly(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        for tick in 0_u64.. {
            ticks.tick().await;
            if tick % 60 == 0
                && let Err(error) = self.mail.purge(SystemTime::now() - WINDOW).await
            {
                tracing::error!("old events stay in memory: {error}");
            }
            self.measure().await;
            if let Err(error) = self.read_lists().await {
                tracing::error!("the page cannot be brought up to date: {error}");
            }
        }
    }

    async fn measure(&self) {
        let rates = self.mail.rates(ALL, WINDOW).await.unwrap_or_default();
        let at = Timestamp::from(SystemTime::now()).unix_seconds();
        let point = Point { at, bounces: rates.bounce_rate(), complaints: rates.complaint_rate() };
        keep(&mut self.shown().rates, point, POINTS);
        self.tell(Change::Rates { point });
    }

    /// Reads the dead letters and the suppressions, and tells of them where they have changed.
    pub(crate) async fn read_lists(&self) -> anyhow::Result<()> {
        let letters = self.inbox.list_letters(None, LETTERS).await?;
        let letters: Vec<LetterView> = letters.into_iter().map(LetterView::from).collect();
        let suppressions = self.mail.suppressions(None, SUPPRESSIONS).await?;
        let suppressions: Vec<_> = suppressions.into_iter().filter_map(SuppressionView::new).collect();

        let mut shown = self.shown();
        if shown.letters != letters {
            shown.letters.clone_from(&letters);
            self.tell(Change::Letters { letters });
        }
        if shown.suppressions != suppressions {
            shown.suppressions.clone_from(&suppressions);
            self.tell(Change::Suppressions { suppressions });
        }
        Ok(())
    }
}

/// Puts one in front, and drops the one that there is no room for any more.
fn keep<T>(all: &mut VecDeque<T>, new: T, at_most: usize) {
    all.push_front(new);
    all.truncate(at_most);
}

impl From<Message> for MessageView {
    fn from(message: Message) -> Self {
        let state = &message.state;
        let marks = [
            (state.opened().is_some(), "opened"),
            (state.clicked().is_some(), "clicked"),
            (state.complained_at().is_some(), "complained"),
            (state.unsubscribed_at().is_some(), "unsubscribed"),
        ];
        Self {
            status: state.status().map(|status| status.as_str()),
            marks: marks.into_iter().filter_map(|(is_there, mark)| is_there.then_some(mark)).collect(),
            id: message.message_id,
            recipient: message.recipient,
        }
    }
}

impl From<&SendarixEvent> for EventView {
    fn from(event: &SendarixEvent) -> Self {
        Self {
            at: event.timestamp,
            event_type: event.type_name().to_owned(),
            event_id: event.event_id.clone(),
            message_id: event.message_id.clone(),
        }
    }
}

impl From<ListedLetter> for LetterView {
    fn from(listed: ListedLetter) -> Self {
        match listed {
            Ok(letter) => Self {
                event_id: letter.key.event_id().to_owned(),
                reason: letter.reason.as_str().to_owned(),
                error: letter.error,
                attempts: letter.attempts,
                last_at: Some(letter.last_at),
            },
            Err(unreadable) => Self {
                event_id: unreadable.key.event_id().to_owned(),
                reason: "unreadable".to_owned(),
                error: unreadable.to_string(),
                attempts: 0,
                last_at: None,
            },
        }
    }
}

impl SuppressionView {
    /// Nothing for an address that was released.
    fn new(entry: SuppressionEntry) -> Option<Self> {
        let suppressed = entry.suppressed?;
        Some(Self { recipient: entry.recipient, reason: suppressed.reason.as_str(), since: suppressed.since })
    }
}
