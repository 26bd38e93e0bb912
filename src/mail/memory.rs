//! Mail state in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::ERASED;
use super::changes::{Changes, StatusChanges};
use super::erasure::ErasedRange;
use super::suppression::{GivenEntry, Suppressed};
use super::{
    Address, Backend, Fact, Message, MessageState, Rates, Record, Recorded, Release, SoftBounceRule, SuppressionEntry,
    SuppressionReason,
};
use crate::event::Timestamp;
use crate::storage::StoreError;
use crate::store::{ClaimHandle, ClaimState};

/// Keeps mail state in memory, for tests and for an application of one process that may forget it.
///
/// It grows until [`purge`](super::Mail::purge) is called. Nothing in it survives the process, the suppression list neither.
/// It completes no claims: the inbox does, once the handler has succeeded. An event that is handled again counts
/// once all the same.
#[derive(Clone, Default)]
pub struct MemoryMail(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    event_ids: HashSet<String>,
    /// By recipient, and then by time and id.
    timelines: HashMap<Address, Timeline>,
    messages: BTreeMap<(String, Address), Message>,
    suppressions: BTreeMap<Address, SuppressionEntry>,
    rates: BTreeMap<(String, Timestamp), Rates>,
}

type Timeline = BTreeMap<(Timestamp, String), Event>;

struct Event {
    fact: Option<Fact>,
    recipient: String,
    message_id: String,
    body: Vec<u8>,
}

impl MemoryMail {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn record(&mut self, record: &Record<'_>, rule: Option<SoftBounceRule>) -> Recorded {
        let Record { event, at, message_id, address, erased, fact, reason, counted, .. } = record;
        if !self.event_ids.insert(event.event_id.clone()) {
            return Recorded::default();
        }
        let kept = Event {
            fact: *fact,
            recipient: event.recipient.clone(),
            message_id: message_id.clone(),
            body: event.body().to_vec(),
        };
        self.timelines.entry(address.clone()).or_default().insert((*at, event.event_id.clone()), kept);
        let message = self.messages.entry((message_id.clone(), address.clone())).or_insert_with(|| Message {
            message_id: message_id.clone(),
            address: address.clone(),
            recipient: event.recipient.clone(),
            state: MessageState::default(),
            opens: 0,
            clicks: 0,
            last_event_at: *at,
        });
        let before = message.state.status();
        message.state.merge(&MessageState::of_fact(*fact, *at, record.failure.clone()));
        message.opens += u64::from(*fact == Some(Fact::Opened));
        message.clicks += u64::from(*fact == Some(Fact::Clicked));
        message.last_event_at = message.last_event_at.max(*at);
        let status = message.state.status().filter(|status| Some(*status) != before);
        if let Some(reason) = *reason {
            let (event_id, message_id) = (Some(event.event_id.clone()), Some(message_id.clone()));
            let suppressed = Suppressed { reason, since: *at, event_id, message_id };
            self.suppress(address, erased.as_ref(), &event.recipient, suppressed);
        }
        if let Some((key, at)) = counted {
            self.rates.entry((key.clone(), at.to_minute())).or_default().add(Rates::of_fact(*fact));
        }
        if let Some(rule) = rule.filter(|_| record.concerns_soft_bounces()) {
            self.apply(rule, record);
        }
        Recorded { completed: false, status }
    }

    fn entry(&mut self, address: &Address, recipient: &str) -> &mut SuppressionEntry {
        self.suppressions.entry(address.clone()).or_insert_with(|| SuppressionEntry {
            address: address.clone(),
            recipient: recipient.to_owned(),
            suppressed: None,
            released: None,
        })
    }

    fn suppress(&mut self, address: &Address, erased: Option<&Address>, recipient: &str, suppressed: Suppressed) {
        if self.released_at(erased).is_some_and(|released_at| suppressed.since <= released_at) {
            return;
        }
        self.entry(address, recipient).suppress(recipient, suppressed);
    }

    /// Applies the rule for soft bounces to all that is known of an address.
    fn apply(&mut self, rule: SoftBounceRule, record: &Record<'_>) {
        let Record { at, address, erased, .. } = record;
        let erased = erased.as_ref();
        let listed = [Some(address), erased].into_iter().flatten().filter(|_| record.may_lift_soft_bounces());
        for listed in listed {
            let Some(entry) = self.suppressions.get_mut(listed) else { continue };
            entry.suppressed.take_if(|suppressed| {
                suppressed.reason == SuppressionReason::SoftBounces && suppressed.since.before(rule.within) <= *at
            });
        }
        let released = self.released_at(Some(address)).max(self.released_at(erased));
        let Some(timeline) = self.timelines.get(address) else { return };
        let delivered = timeline.iter().filter(|(_, event)| event.fact == Some(Fact::Delivered));
        let since = delivered.map(|((at, _), _)| *at).max().max(released);
        let is_counted = |at: Timestamp, event: &Event| event.fact == Some(Fact::SoftBounced) && Some(at) > since;
        let soft: Vec<_> = timeline.iter().filter(|((at, _), event)| is_counted(*at, event)).collect();
        let others = usize::from(rule.count).saturating_sub(1);
        let over = soft.iter().enumerate().find_map(|(index, last)| {
            let first = soft.get(index.checked_sub(others)?)?;
            first.0.0.until(last.0.0).filter(|passed| *passed <= rule.within).map(|_| *last)
        });
        if let Some(((at, event_id), event)) = over {
            let suppressed = Suppressed {
                reason: SuppressionReason::SoftBounces,
                since: *at,
                event_id: Some(event_id.clone()),
                message_id: Some(event.message_id.clone()),
            };
            let recipient = event.recipient.clone();
            self.suppress(address, erased, &recipient, suppressed);
        }
    }

    fn released_at(&self, address: Option<&Address>) -> Option<Timestamp> {
        self.suppressions.get(address?)?.released.as_ref().map(|released| released.at)
    }

    fn forget(&mut self, is_over: impl Fn(&Address, Timestamp) -> bool) -> u64 {
        let before = self.event_ids.len();
        for (address, timeline) in &mut self.timelines {
            timeline.retain(|(at, id), _| !is_over(address, *at) || !self.event_ids.remove(id));
        }
        self.timelines.retain(|_, timeline| !timeline.is_empty());
        self.messages.retain(|(_, address), message| !is_over(address, message.last_event_at));
        (before - self.event_ids.len()) as u64
    }
}

impl Backend for MemoryMail {
    const COMPLETES: bool = false;

    async fn record(
        &self,
        record: &Record<'_>,
        _: &ClaimHandle,
        rule: Option<SoftBounceRule>,
        _: &Changes,
    ) -> Result<Recorded, StoreError> {
        Ok(self.inner().record(record, rule))
    }

    async fn claim_state(&self, _: &ClaimHandle) -> Result<Option<ClaimState>, StoreError> {
        Ok(None)
    }

    async fn suppressed(&self, addresses: &[&str], own: &ErasedRange) -> Result<Vec<String>, StoreError> {
        let inner = self.inner();
        let asked =
            addresses.iter().filter_map(|address| inner.suppressions.get(&Address::kept((*address).to_owned())));
        let erased = inner.suppressions.range(Address::kept(ERASED.to_owned())..).map(|(_, entry)| entry);
        let erased = erased.take_while(|entry| entry.address.as_str().starts_with(ERASED));
        let foreign = erased.filter(|entry| own.excludes(entry.address.as_str()));
        let suppressed = asked.chain(foreign).filter(|entry| entry.suppressed.is_some());
        Ok(suppressed.map(|entry| entry.address.as_str().to_owned()).collect())
    }

    async fn entry(&self, address: &Address) -> Result<Option<SuppressionEntry>, StoreError> {
        Ok(self.inner().suppressions.get(address).cloned())
    }

    async fn suppressions(&self, after: &str, limit: usize) -> Result<Vec<SuppressionEntry>, StoreError> {
        let after = Address::kept(after.to_owned());
        let inner = self.inner();
        let behind = inner.suppressions.range((Bound::Excluded(after), Bound::Unbounded)).map(|(_, entry)| entry);
        Ok(behind.filter(|entry| entry.suppressed.is_some()).take(limit).cloned().collect())
    }

    async fn suppress(&self, entries: &[GivenEntry]) -> Result<(), StoreError> {
        let mut inner = self.inner();
        for GivenEntry { address, recipient, suppressed, erased } in entries {
            inner.suppress(address, erased.as_ref(), recipient, suppressed.clone());
        }
        Ok(())
    }

    async fn release_unlisted(&self, address: &Address, at: Timestamp, because: &str) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        let entry = inner.entry(address, address.as_str());
        if entry.suppressed.is_some() {
            return Ok(false);
        }
        if entry.released.as_ref().is_none_or(|released| released.at < at) {
            entry.released = Some(Release { at, because: because.to_owned() });
        }
        Ok(true)
    }

    async fn release(&self, address: &Address, at: Timestamp, because: &str) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        let Some(entry) = inner.suppressions.get_mut(address) else { return Ok(false) };
        let Some(suppressed) = entry.suppressed.take() else { return Ok(false) };
        entry.released = Some(Release { at: at.max(suppressed.since), because: because.to_owned() });
        Ok(true)
    }

    async fn messages(&self, message_id: &str, address: Option<&Address>) -> Result<Vec<Message>, StoreError> {
        let inner = self.inner();
        let first = (message_id.to_owned(), Address::kept(String::new()));
        let of_message = inner.messages.range(first..).take_while(|((id, _), _)| id == message_id);
        let of_address = of_message.filter(|((_, found), _)| address.is_none_or(|address| found == address));
        Ok(of_address.map(|(_, message)| message.clone()).collect())
    }

    async fn messages_to(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        let inner = self.inner();
        let mut messages: Vec<&Message> =
            inner.messages.values().filter(|message| message.address == *address).collect();
        messages.sort_unstable_by(|a, b| place(b).cmp(&place(a)));
        let behind = messages.into_iter().filter(|message| after.is_none_or(|after| place(message) < after));
        Ok(behind.take(limit).cloned().collect())
    }

    async fn timeline(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let inner = self.inner();
        let Some(timeline) = inner.timelines.get(address) else { return Ok(Vec::new()) };
        let end = after.map_or(Bound::Unbounded, |(at, id)| Bound::Excluded((at, id.to_owned())));
        let events = timeline.range((Bound::Unbounded, end)).rev();
        Ok(events.take(limit).map(|(_, event)| event.body.clone()).collect())
    }

    async fn rates(&self, key: &str, since: Timestamp) -> Result<Rates, StoreError> {
        let mut sum = Rates::default();
        let inner = self.inner();
        let counted = inner.rates.iter().filter(|((counted, minute), _)| counted == key && *minute >= since);
        counted.for_each(|(_, rates)| sum.add(*rates));
        Ok(sum)
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut inner = self.inner();
        inner.rates.retain(|(_, minute), _| *minute >= before);
        Ok(inner.forget(|_, at| at < before))
    }

    async fn erase(&self, address: &Address, erased: &Address) -> Result<u64, StoreError> {
        let mut inner = self.inner();
        if let Some(entry) = inner.suppressions.remove(address) {
            let kept = inner.entry(erased, "");
            let releases = [kept.released.take(), entry.released].into_iter().flatten();
            kept.released =
                releases.max_by_key(|release| release.at).map(|release| Release { because: String::new(), ..release });
            let stands = kept.suppressed.take();
            for suppressed in [stands, entry.suppressed].into_iter().flatten() {
                kept.suppress("", Suppressed { event_id: None, message_id: None, ..suppressed });
            }
        }
        Ok(inner.forget(|of, _| of == address))
    }

    async fn changes(&self, changes: &Changes) -> Result<StatusChanges, StoreError> {
        Ok(changes.local())
    }
}

/// Where a message stands in the list of a recipient's.
fn place(message: &Message) -> (Timestamp, &str) {
    (message.last_event_at, &message.message_id)
}

impl fmt::Debug for MemoryMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_struct("MemoryMail").field("events", &inner.event_ids.len()).finish_non_exhaustive()
    }
}
