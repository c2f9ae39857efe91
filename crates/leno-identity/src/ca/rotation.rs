//! Replacing the root without a failed handshake (D6). Pure: facts and `now` come in, a step comes out.
//!
//! ```text
//!              start                     SwitchIssuer                      RetireOld
//!   Stable ──────────▶ Distributing ───────────────────▶ Replacing ────────────────────▶ Stable
//!   trust: old         trust: old, new                   trust: old, new                 trust: new
//!   issue: old         issue: old                        issue: new                      issue: new
//!                      until every live registration     until no live registration
//!                      uses a bundle with both roots,    holds a leaf of the old root,
//!                      or no leaf from before the start  or the last such leaf has
//!                      is still valid                    expired
//! ```
//!
//! Absent: a state in which a leaf is issued under a root that some live member does not trust yet, and one in which a
//! root is distrusted while a live member presents its leaves. Each arrow is one atomic write, so a restart resumes.

use serde::{Deserialize, Serialize};

/// A rotation, or its absence. Numbers are generations of the authority, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase")]
pub enum Rotation {
    /// One root.
    Stable {
        /// Its generation.
        current: u32,
    },
    /// The next root is being made known.
    Distributing {
        /// The one that issues.
        current: u32,
        /// The one being made known.
        next: u32,
        /// When this phase began, Unix seconds.
        since: u64,
    },
    /// Leaves of the previous root are being replaced.
    Replacing {
        /// The one that will retire.
        previous: u32,
        /// The one that issues.
        current: u32,
        /// When this phase began, Unix seconds.
        since: u64,
    },
}

/// What the control plane knows of its live registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Live registrations that have not acknowledged a bundle with both roots.
    pub unacknowledged: usize,
    /// Live registrations whose leaf chains to the root that is to retire.
    pub on_previous: usize,
}

/// An arrow of the drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Issue under the new root from now on.
    SwitchIssuer {
        /// Its generation.
        next: u32,
    },
    /// Remove the old root from the bundle.
    RetireOld {
        /// Its generation.
        previous: u32,
    },
}

/// A step that the state does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// One at a time: a bundle never has three roots of its own mesh.
    #[error("a root rotation is already running ({0})")]
    Running(&'static str),
    /// A step that belongs to another phase.
    #[error("the root rotation is in phase `{0}`, which does not have this step")]
    OutOfOrder(&'static str),
}

impl Rotation {
    /// The word for status and logs.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        match self {
            Self::Stable { .. } => "stable",
            Self::Distributing { .. } => "distributing",
            Self::Replacing { .. } => "replacing",
        }
    }

    /// The generation that issues.
    #[must_use]
    pub fn issuing(&self) -> u32 {
        match *self {
            Self::Stable { current } | Self::Distributing { current, .. } | Self::Replacing { current, .. } => current,
        }
    }

    /// The generations in the trust bundle, oldest first.
    #[must_use]
    pub fn trusted(&self) -> Vec<u32> {
        match *self {
            Self::Stable { current } => vec![current],
            Self::Distributing { current, next, .. } => vec![current, next],
            Self::Replacing { previous, current, .. } => vec![previous, current],
        }
    }

    /// Adds the next root.
    pub fn start(&self, now: u64) -> Result<Self, RotationError> {
        match *self {
            Self::Stable { current } => Ok(Self::Distributing { current, next: current + 1, since: now }),
            _ => Err(RotationError::Running(self.phase())),
        }
    }

    /// The step that the facts permit now. `longest_ttl_s` is the longest lifetime of a leaf ever issued.
    #[must_use]
    pub fn due(&self, progress: &Progress, now: u64, longest_ttl_s: u64) -> Option<Step> {
        let outlived = |since: u64| now > since.saturating_add(longest_ttl_s);
        match *self {
            Self::Stable { .. } => None,
            Self::Distributing { next, since, .. } => {
                (progress.unacknowledged == 0 || outlived(since)).then_some(Step::SwitchIssuer { next })
            }
            Self::Replacing { previous, since, .. } => {
                (progress.on_previous == 0 || outlived(since)).then_some(Step::RetireOld { previous })
            }
        }
    }

    /// Takes a step.
    pub fn take(&self, step: Step, now: u64) -> Result<Self, RotationError> {
        match (*self, step) {
            (Self::Distributing { current, next, .. }, Step::SwitchIssuer { next: to }) if to == next => {
                Ok(Self::Replacing { previous: current, current: next, since: now })
            }
            (Self::Replacing { previous, current, .. }, Step::RetireOld { previous: old }) if old == previous => {
                Ok(Self::Stable { current })
            }
            _ => Err(RotationError::OutOfOrder(self.phase())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUSY: Progress = Progress { unacknowledged: 1, on_previous: 1 };

    #[test]
    fn time_alone_finishes_a_rotation() {
        let state = Rotation::Stable { current: 4 }.start(100).unwrap();
        assert_eq!(state.due(&BUSY, 160, 60), None);
        assert_eq!(state.due(&BUSY, 161, 60), Some(Step::SwitchIssuer { next: 5 }));
        let state = state.take(Step::SwitchIssuer { next: 5 }, 161).unwrap();
        assert_eq!(state.due(&BUSY, 221, 60), None);
        assert_eq!(state.due(&BUSY, 222, 60), Some(Step::RetireOld { previous: 4 }));
    }

    #[test]
    fn steps_out_of_order_are_refused() {
        let stable = Rotation::Stable { current: 1 };
        assert_eq!(stable.take(Step::SwitchIssuer { next: 2 }, 0), Err(RotationError::OutOfOrder("stable")));
        let distributing = stable.start(0).unwrap();
        assert_eq!(distributing.start(0), Err(RotationError::Running("distributing")));
        assert!(distributing.take(Step::RetireOld { previous: 1 }, 0).is_err());
        assert!(distributing.take(Step::SwitchIssuer { next: 3 }, 0).is_err());
    }

    #[test]
    fn the_stored_form_is_stable() {
        let state = Rotation::Replacing { previous: 1, current: 2, since: 9 };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(text, r#"{"phase":"replacing","previous":1,"current":2,"since":9}"#);
        assert_eq!(serde_json::from_str::<Rotation>(&text).unwrap(), state);
    }

    /// A mesh of members that come, acknowledge and renew in any order: no handshake between live ones ever fails.
    #[derive(Debug, Clone, Copy)]
    struct Member {
        trusts: [bool; 2],
        leaf: usize,
    }

    proptest! {
        #[test]
        fn no_live_member_is_ever_distrusted(events in proptest::collection::vec((0u8..5, 0usize..4), 1..60)) {
            let mut rotation = Rotation::Stable { current: 1 };
            let mut members = [Member { trusts: [true, false], leaf: 1 }; 4];
            for (now, (kind, who)) in (1u64..).zip(events) {
                match kind {
                    0 if rotation == (Rotation::Stable { current: 1 }) => rotation = rotation.start(now).unwrap(),
                    1 => {
                        let trusted = rotation.trusted();
                        members[who].trusts = [trusted.contains(&1), trusted.contains(&2)];
                    }
                    2 => members[who].leaf = rotation.issuing() as usize,
                    3 => {
                        let progress = Progress {
                            unacknowledged: members.iter().filter(|m| m.trusts != [true, true]).count(),
                            on_previous: members.iter().filter(|m| m.leaf == 1).count(),
                        };
                        if let Some(step) = rotation.due(&progress, now, u64::MAX) {
                            rotation = rotation.take(step, now).unwrap();
                        }
                    }
                    _ => {}
                }
                for a in &members {
                    for b in &members {
                        prop_assert!(a.trusts[b.leaf - 1], "{a:?} refuses {b:?} in {rotation:?}");
                    }
                }
            }
        }
    }
}
