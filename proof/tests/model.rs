//! Searches the whole model, and one for each mistake.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]

use sendarix_webhooks_proof::model::{Effects, Flaw, Protocol, TOLERATED_FAULTS, property};
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn no_order_of_steps_breaks_a_promise() {
    for effects in [Effects::Apart, Effects::Transactional] {
        for world in [Protocol::new(effects), Protocol::redriven(effects)] {
            let checked = world.clone().checker().threads(2).spawn_bfs().join();
            println!("{world:?}: {} states, {} deep", checked.unique_state_count(), checked.max_depth());
            checked.assert_properties();
        }
    }
}

/// Else the tolerance would say nothing of the protocol.
#[test]
fn one_more_fault_than_is_tolerated_can_keep_an_event_away() {
    let world = Protocol { tolerated_faults: TOLERATED_FAULTS + 1, ..Protocol::new(Effects::Apart) };
    let found = HasDiscoveries::AnyOf([property::NOT_STUCK].into());
    let checked = world.checker().finish_when(found).spawn_bfs().join();
    println!("{:?}", checked.assert_any_discovery(property::NOT_STUCK).into_actions());
}

#[test]
fn every_flaw_is_found() {
    for flaw in Flaw::ALL {
        let promise = flaw.breaks();
        // Or its world would be to blame.
        let sound = Protocol { flaw: None, ..Protocol::flawed(flaw) }.checker().spawn_bfs().join();
        sound.assert_no_discovery(promise);
        let found = HasDiscoveries::AnyOf([promise].into());
        let checked = Protocol::flawed(flaw).checker().finish_when(found).spawn_bfs().join();
        let path = checked.discovery(promise).unwrap_or_else(|| panic!("{flaw:?} breaks nothing"));
        println!("{flaw:?} breaks \"{promise}\": {:?}", path.into_actions());
    }
}
