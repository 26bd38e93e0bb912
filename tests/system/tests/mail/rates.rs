//! Counters by a key of the application's.

use std::time::Duration;

use sendarix_webhooks::EventType;
use sendarix_webhooks::mail::MailStore;

use crate::on_every_store;
use crate::shop::{Shop, sample};

on_every_store!(rates_are_of_a_key_and_a_window);

async fn rates_are_of_a_key_and_a_window<S: MailStore>(shop: Shop<S>) {
    let shop =
        shop.with(|mail| mail.count_by(|event| event.message_id.strip_prefix("spring-").map(|_| "spring".to_owned())));
    let of = |event_type, second| sample(event_type, second).message_id("spring-1");
    shop.record_all([
        of(EventType::Delivered, -4000),
        of(EventType::Delivered, -60),
        of(EventType::Delivered, -50),
        of(EventType::Bounce, -40),
        of(EventType::SoftBounce, -40),
        of(EventType::Complaint, 600),
        sample(EventType::Bounce, 0),
    ])
    .await;
    let hour = shop.mail.rates("spring", Duration::from_secs(3600)).await.unwrap();
    assert_eq!((hour.delivered, hour.bounced, hour.complained), (2, 1, 1));
    assert_eq!(hour.bounce_rate(), Some(1.0 / 3.0));
    let day = shop.mail.rates("spring", Duration::from_secs(86_400)).await.unwrap();
    assert_eq!((day.delivered, day.bounced, day.complained), (3, 1, 1));
    assert_eq!(shop.mail.rates("summer", Duration::MAX).await.unwrap().bounce_rate(), None);
}
