//! Finding an edge's cells per request without hashing: a connection or destination port meets few edges, so it remembers them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use leno_model::{AppProtocol, NamespacedName, SpiffeId};

use super::{Direction, Edge, EdgeMetrics, WorkerMetrics};

/// Edges remembered; a port with more callers or routes in use pays a hash for what falls out.
const REMEMBERED: usize = 8;

/// An [`Edge`] whose parts are borrowed from plans and sessions.
#[derive(Debug, Clone, Copy)]
pub struct EdgeRef<'a> {
    /// As seen from the workload.
    pub direction: Direction,
    /// The caller's proven identity.
    pub source: Option<&'a SpiffeId>,
    /// The service that was called; absent outside the mesh.
    pub service: Option<&'a NamespacedName>,
    /// The proven identity of who answers.
    pub destination: Option<&'a SpiffeId>,
    /// The rule that was taken.
    pub route: Option<&'a Arc<str>>,
    /// What was spoken.
    pub protocol: Option<AppProtocol>,
}

impl EdgeRef<'_> {
    fn is(&self, edge: &Edge) -> bool {
        self.direction == edge.direction
            && self.protocol == edge.protocol
            && self.route == edge.route.as_ref()
            && self.service == edge.service.as_ref()
            && self.source == edge.source.as_ref()
            && self.destination == edge.destination.as_ref()
    }

    /// The same with parts of its own; clones are reference counts.
    #[must_use]
    pub fn to_edge(&self) -> Edge {
        Edge {
            direction: self.direction,
            source: self.source.cloned(),
            service: self.service.cloned(),
            destination: self.destination.cloned(),
            route: self.route.cloned(),
            protocol: self.protocol,
        }
    }
}

/// The edges that one connection or destination port used last, latest first.
#[derive(Debug, Default)]
pub struct EdgeMemo(RefCell<Vec<Rc<EdgeMetrics>>>);

impl EdgeMemo {
    /// The cells of an edge.
    #[must_use]
    pub fn get(&self, worker: &WorkerMetrics, edge: EdgeRef<'_>) -> Rc<EdgeMetrics> {
        let mut recent = self.0.borrow_mut();
        match recent.iter().position(|known| edge.is(&known.cells.edge)) {
            Some(0) => {}
            Some(at) => recent[..=at].rotate_right(1),
            None => {
                recent.truncate(REMEMBERED - 1);
                recent.insert(0, worker.edge(&edge.to_edge()));
            }
        }
        recent[0].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, Outcome};

    #[test]
    fn a_memo_finds_the_same_cells_as_the_worker() {
        let metrics = Metrics::default();
        let worker = metrics.worker();
        let memo = EdgeMemo::default();
        let routes: Vec<Arc<str>> = (0..REMEMBERED + 3).map(|n| n.to_string().into()).collect();
        let web = NamespacedName::new("shop", "web").unwrap();
        for round in 0..3 {
            for route in routes.iter().chain(routes.iter().rev()) {
                let edge = EdgeRef {
                    direction: Direction::Inbound,
                    source: None,
                    service: Some(&web),
                    destination: None,
                    route: Some(route),
                    protocol: None,
                };
                let cells = memo.get(&worker, edge);
                assert!(Rc::ptr_eq(&cells, &worker.edge(&edge.to_edge())), "{round} {route}");
                cells.finished(Outcome::new(Some(200), None, None), 1);
            }
        }
        assert!(memo.0.borrow().len() == REMEMBERED);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.edges.len(), routes.len());
        assert!(snapshot.edges.values().all(|t| t.requests() == 6));
    }
}
