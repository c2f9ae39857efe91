//! Virtual addresses: one IPv4 from 244.0.0.0/16 and one IPv6 from the mesh's own /48 per service, stored (D13).
//!
//! Both share a slot, 16 bits, which is the key of the record: the store gives a slot to one service only. A service that comes
//! back gets its old slot; another gets it only when it was free for 24 h, which is longer than anyone caches an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use leno_runtime::clock::Clock;
use leno_store::{Expect, Store};

use crate::records::{self, RecordError, Vip};
use crate::world::World;

/// A released address is not given to another service for this long.
pub const REUSE_AFTER_S: u64 = 24 * 3600;
/// The IPv4 prefix.
pub const PREFIX4: &str = "244.0.0.0/16";
/// Slots below this are kept for the mesh itself; slot 0 is the network's address.
const FIRST_SLOT: u16 = 16;
/// The last slot would be the broadcast address.
const LAST_SLOT: u16 = u16::MAX - 1;

/// What must be written so that the stored addresses fit the services that exist.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// Slot and record, to be written over what is there.
    pub writes: Vec<(u16, Vip)>,
    /// Services for which no slot is free.
    pub without: Vec<(String, String)>,
}

/// Compares services with stored addresses. `now` in Unix seconds.
#[must_use]
pub fn plan(services: &BTreeSet<(String, String)>, stored: &BTreeMap<u16, Vip>, prefix6: Ipv6Addr, now: u64) -> Plan {
    let mut plan = Plan::default();
    let mut taken: BTreeMap<u16, Vip> = stored.clone();
    let mut slots: BTreeMap<(String, String), u16> = BTreeMap::new();
    // Those in use before those that rest; of several (a race left them) the lowest.
    for wanted in [false, true] {
        for (slot, vip) in stored.iter().filter(|(_, v)| v.released.is_some() == wanted) {
            let owner = (vip.namespace.clone(), vip.service.clone());
            let kept = services.contains(&owner) && !slots.contains_key(&owner);
            if kept {
                slots.insert(owner, *slot);
            }
            let released = (!kept).then_some(vip.released.unwrap_or(now));
            if released != vip.released {
                let changed = Vip { released, ..vip.clone() };
                taken.insert(*slot, changed.clone());
                plan.writes.push((*slot, changed));
            }
        }
    }
    for owner in services.iter().filter(|s| !slots.contains_key(*s)) {
        let free = |slot: &u16| {
            taken.get(slot).is_none_or(|v| v.released.is_some_and(|at| now >= at.saturating_add(REUSE_AFTER_S)))
        };
        // Starting at the name's own place keeps an address from depending on the order of creation where it can.
        let start = FIRST_SLOT + hash(owner) % (LAST_SLOT - FIRST_SLOT);
        let Some(slot) = (start..=LAST_SLOT).chain(FIRST_SLOT..start).find(free) else {
            plan.without.push(owner.clone());
            continue;
        };
        let vip = Vip {
            namespace: owner.0.clone(),
            service: owner.1.clone(),
            v4: Ipv4Addr::new(244, 0, slot.to_be_bytes()[0], slot.to_be_bytes()[1]),
            v6: Ipv6Addr::from(u128::from(prefix6) | u128::from(slot)),
            released: None,
        };
        taken.insert(slot, vip.clone());
        plan.writes.push((slot, vip));
    }
    plan
}

/// FNV-1a, folded to 16 bits: the same in every build.
fn hash(owner: &(String, String)) -> u16 {
    let bytes = owner.0.bytes().chain([0]).chain(owner.1.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    ((hash >> 16) as u16) ^ (hash as u16)
}

/// The key's name of a slot; sorts as the slots do.
#[must_use]
pub fn slot_name(slot: u16) -> String {
    format!("{slot:05}")
}

/// Writes what [`plan`] says once.
pub async fn reconcile(world: &World, store: &dyn Store, prefix6: Ipv6Addr, now: u64) -> Result<Plan, RecordError> {
    let (services, stored) = world.read(|contents| {
        let services: BTreeSet<_> = contents.services().cloned().collect();
        let stored: BTreeMap<u16, Vip> =
            contents.vips().iter().filter_map(|(name, vip)| Some((name.parse().ok()?, vip.clone()))).collect();
        (services, stored)
    });
    let plan = plan(&services, &stored, prefix6, now);
    for (slot, vip) in &plan.writes {
        let key = records::key::<Vip>("", &slot_name(*slot));
        // Compared with what was planned on: a slot that changed meanwhile is planned again.
        let current = records::load::<Vip>(store, &key).await?;
        let expect = match (current, stored.get(slot)) {
            (None, None) => Expect::Absent,
            (Some((now, version)), Some(seen)) if now == *seen => Expect::Version(version),
            _ => continue,
        };
        match records::save(store, &key, vip, expect).await {
            Ok(_) => {}
            Err(e) if e.is_conflict() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(plan)
}

/// Keeps the stored addresses in step with the services. Runs until dropped.
pub async fn run(world: Arc<World>, store: Arc<dyn Store>, clock: Arc<dyn Clock>, prefix6: Ipv6Addr) {
    world.synced().await;
    let mut ticks = world.ticks();
    loop {
        ticks.borrow_and_update();
        match reconcile(&world, &*store, prefix6, clock.unix_seconds()).await {
            Ok(plan) if !plan.without.is_empty() => {
                tracing::error!(services = plan.without.len(), "no virtual addresses are left for some services");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "virtual addresses cannot be written; trying again with the next change")
            }
        }
        if ticks.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(names: &[&str]) -> BTreeSet<(String, String)> {
        names.iter().map(|n| ("shop".to_owned(), (*n).to_owned())).collect()
    }

    fn prefix() -> Ipv6Addr {
        "fd12:3456:789a::".parse().unwrap()
    }

    fn applied(mut stored: BTreeMap<u16, Vip>, plan: &Plan) -> BTreeMap<u16, Vip> {
        stored.extend(plan.writes.iter().cloned());
        stored
    }

    #[test]
    fn addresses_are_stable_and_rest_for_a_day() {
        let stored = applied(BTreeMap::new(), &plan(&services(&["web", "api"]), &BTreeMap::new(), prefix(), 1000));
        assert_eq!(stored.len(), 2);
        for (slot, vip) in &stored {
            assert_eq!(u32::from(vip.v4) & 0xffff, u32::from(*slot));
            assert!(vip.v4.to_string().starts_with("244.0.") && vip.v6.to_string().starts_with("fd12:3456:789a::"));
        }
        assert_eq!(plan(&services(&["web", "api"]), &stored, prefix(), 2000), Plan::default(), "nothing to do");
        let web = *stored.iter().find(|(_, v)| v.service == "web").unwrap().0;

        let stored = applied(stored.clone(), &plan(&services(&["api"]), &stored, prefix(), 2000));
        assert_eq!(stored[&web].released, Some(2000));
        // Back within the day: the same slot.
        let back = applied(stored.clone(), &plan(&services(&["web", "api"]), &stored, prefix(), 3000));
        assert_eq!((back[&web].released, back.len()), (None, 2));
    }

    #[test]
    fn a_full_range_waits_for_a_day_before_it_reuses() {
        let gone = |slot: u16, released: u64| {
            let v4 = Ipv4Addr::from(0xf400_0000 | u32::from(slot));
            (
                slot,
                Vip {
                    namespace: "old".into(),
                    service: format!("s{slot}"),
                    v4,
                    v6: prefix(),
                    released: Some(released),
                },
            )
        };
        let mut stored: BTreeMap<u16, Vip> = (FIRST_SLOT..=LAST_SLOT).map(|s| gone(s, 50_000)).collect();
        stored.insert(4711, gone(4711, 10_000).1);
        let early = plan(&services(&["web"]), &stored, prefix(), 10_000 + REUSE_AFTER_S - 1);
        assert_eq!((early.writes.len(), early.without.len()), (0, 1));
        let due = plan(&services(&["web"]), &stored, prefix(), 10_000 + REUSE_AFTER_S);
        assert_eq!(due.writes.iter().map(|(s, v)| (*s, v.service.as_str())).collect::<Vec<_>>(), [(4711, "web")]);
    }

    #[test]
    fn two_slots_of_one_service_become_one() {
        let vip = |slot: u16| {
            let v4 = Ipv4Addr::from(0xf400_0000 | u32::from(slot));
            (slot, Vip { namespace: "shop".into(), service: "web".into(), v4, v6: prefix(), released: None })
        };
        let stored = BTreeMap::from([vip(20), vip(30)]);
        let once = plan(&services(&["web"]), &stored, prefix(), 9);
        assert_eq!(once.writes.iter().map(|(s, v)| (*s, v.released)).collect::<Vec<_>>(), [(30, Some(9))]);
        let after = applied(stored, &once);
        assert_eq!(plan(&services(&["web"]), &after, prefix(), 10), Plan::default(), "and stay so");
        // The one in use is kept, though the other is lower.
        let stored = BTreeMap::from([(5, Vip { released: Some(1), ..vip(5).1 }), vip(30)]);
        assert_eq!(plan(&services(&["web"]), &stored, prefix(), 10), Plan::default());
    }
}
