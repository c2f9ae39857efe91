//! What the driver knows, told to the workers, to operators and to the disk.

use std::sync::Arc;

use leno_discovery::{proto, snapshot as stored};

use super::{Driver, Parts};
use crate::control::status::ControlStatus;
use crate::snapshot::ControlLink;

/// Largest answer to a query.
const MAX_ANSWER: usize = 1 << 20;

impl Driver {
    pub(super) fn query(&mut self, query: &proto::Query) {
        let mut answer = proto::QueryAnswer { id: query.id, ..proto::QueryAnswer::default() };
        match query.kind.as_str() {
            "status" => match serde_json::to_vec(&self.current_status()) {
                Ok(body) if body.len() <= MAX_ANSWER => answer.body = body.into(),
                Ok(body) => answer.error = format!("the answer has {} bytes", body.len()),
                Err(error) => answer.error = error.to_string(),
            },
            other => answer.error = format!("this proxy does not answer `{other}`"),
        }
        self.session.answer(answer);
    }

    /// Writes what has changed, away from this thread: a slow disk must not hold up the stream.
    pub(super) fn save(&mut self) {
        self.save_at = None;
        self.saving_start = self.parts.destinations.start_answered();
        let dir = self.parts.dir.clone();
        let names = std::mem::take(&mut self.unsaved);
        let work: Vec<_> = names
            .into_iter()
            .map(|name| {
                let content = self.parts.destinations.good(&name).map(|good| stored::encode(&name, good));
                (name, content)
            })
            .collect();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            let mut is_whole = true;
            for (name, content) in work {
                match content {
                    Some(content) => {
                        if let Err(error) = dir.store_collection(&name, &content) {
                            tracing::error!(%error, "a collection could not be stored; a restart will miss it");
                            is_whole = false;
                        }
                    }
                    None => dir.remove_collection(&name),
                }
            }
            is_whole
        }));
    }

    /// The write has ended. One that failed was logged: a full disk must not keep a proxy from serving.
    pub(super) fn saved(&mut self, is_whole: bool) {
        self.saving = None;
        let before = (self.prepared, self.kept);
        self.prepared |= self.saving_start;
        self.kept = (self.kept || self.saving_start) && is_whole;
        if before != (self.prepared, self.kept) {
            self.tell_status();
        }
    }

    pub(super) fn publish(&mut self, link: &ControlLink) {
        if std::mem::take(&mut self.dirty) {
            self.version += 1;
            link.snapshots.send_replace(Arc::new(self.snapshot()));
            self.tell_status();
        }
    }

    pub(super) fn tell_status(&self) {
        self.status.send_replace(Arc::new(self.current_status()));
    }

    fn current_status(&self) -> ControlStatus {
        let Parts { targets, trust, destinations, client, generation, .. } = &self.parts;
        let identity = trust.context().identity();
        ControlStatus {
            connected: self.session.is_up(),
            control_plane: targets.current().to_owned(),
            problem: self.problem.clone(),
            identity: identity.spiffe().to_string(),
            serial: identity.serial().to_string(),
            not_after: identity.leaf().not_after,
            renewals: trust.renewals(),
            bundle_version: trust.bundle_version(),
            instance: client.instance.clone(),
            generation: *generation,
            registered: self.registered,
            prepared: self.prepared,
            kept: self.kept,
            unanswered: self.unanswered,
            collections: destinations.status(),
        }
    }
}
