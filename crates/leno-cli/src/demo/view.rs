//! The demo's screen: services, edges, and what to try next; or one JSON line a frame.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde_json::json;

use super::load::Load;
use super::processes::Mesh;
use super::scrape::{Counts, Snapshot, quantile};
use super::shop::MEMBERS;

/// Draws frames; keeps the snapshot before, since rates are differences.
pub struct View {
    json: bool,
    terminal: bool,
    before: Option<Snapshot>,
    frames: u64,
    said_next: bool,
}

impl View {
    /// On a terminal the screen is redrawn in place; elsewhere frames follow one another.
    pub fn new(json: bool) -> Self {
        Self { json, terminal: std::io::stdout().is_terminal(), before: None, frames: 0, said_next: false }
    }

    /// Draws one frame.
    pub fn draw(&mut self, mesh: &Mesh, load: &Load, now: &Snapshot) {
        let rows = self.rows(now);
        let text = if self.json { json_line(mesh, load, &rows) } else { self.screen(mesh, load, &rows) };
        let mut out = std::io::stdout().lock();
        // A closed terminal must not end the demo with a panic; SIGHUP ends it.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.before = Some(Snapshot { at: now.at, edges: now.edges.clone() });
        self.frames += 1;
    }

    fn rows(&self, now: &Snapshot) -> Vec<Row> {
        let empty = BTreeMap::new();
        let (earlier, seconds) = match &self.before {
            Some(before) => (&before.edges, (now.at - before.at).as_secs_f64().max(0.001)),
            None => (&empty, 1.0),
        };
        now.edges
            .iter()
            .map(|(key, counts)| {
                let before = earlier.get(key);
                let zero = Counts::default();
                let past = before.unwrap_or(&zero);
                let requests = counts.requests - past.requests;
                Row {
                    source: key.0.clone(),
                    destination: key.1.clone(),
                    rate: requests / seconds,
                    success: if requests > 0.0 { (counts.fine - past.fine) / requests * 100.0 } else { 100.0 },
                    p50: quantile(before, counts, 0.5),
                    p99: quantile(before, counts, 0.99),
                }
            })
            .collect()
    }

    fn screen(&mut self, mesh: &Mesh, load: &Load, rows: &[Row]) -> String {
        let (bold, dim, red, green, plain) = if self.terminal {
            ("\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m")
        } else {
            ("", "", "", "", "")
        };
        let mut text = String::new();
        if self.terminal {
            text.push_str(if self.frames == 0 { "\x1b[?25l\x1b[2J\x1b[H" } else { "\x1b[H" });
        }
        let (p50, p99) = load.take_percentiles();
        let first = load.first_answer().map_or_else(
            || "no answer yet".to_owned(),
            |at| format!("first answer after {:.2} s", (at - mesh.started).as_secs_f64()),
        );
        text.push_str(&format!("{bold}Leno demo{plain}  {} members, mTLS everywhere, {first}\n\n", mesh.members.len()));
        text.push_str(&format!("{dim}SERVICE        INSTANCES  VERSION{plain}\n"));
        for (service, instances, version, note) in services() {
            text.push_str(&format!("{service:<15}{instances:>9}  {version:<9}{dim}{note}{plain}\n"));
        }
        text.push_str(&format!(
            "\n{dim}{:<32}{:>8}{:>10}{:>10}{:>10}{plain}\n",
            "CALLS", "REQ/S", "SUCCESS", "P50", "P99"
        ));
        for row in rows {
            let colour = if row.success < 99.0 { red } else { green };
            text.push_str(&format!(
                "{:<32}{:>8.1}{colour}{:>9.1}%{plain}{:>10}{:>10}\n",
                format!("{} -> {}", row.source, row.destination),
                row.rate,
                row.success,
                millis(row.p50),
                millis(row.p99)
            ));
        }
        text.push_str(&format!(
            "\nshoppers: {} answered, {} failed, p50 {:.1} ms, p99 {:.1} ms\n",
            load.fine.get(),
            load.failed.get(),
            p50.as_secs_f64() * 1e3,
            p99.as_secs_f64() * 1e3
        ));
        if let Some(error) = load.last_error() {
            text.push_str(&format!("{dim}last failure: {}{plain}\n", error.chars().take(100).collect::<String>()));
        }
        if self.terminal || !self.said_next {
            self.said_next = true;
            text.push_str(&next_steps(mesh));
        }
        if self.terminal {
            // Clear what a longer frame left on each line, and below.
            text = text.replace('\n', "\x1b[K\n") + "\x1b[J";
        } else {
            text.push('\n');
        }
        text
    }
}

/// Puts the cursor back after the last frame.
pub fn restore() {
    if std::io::stdout().is_terminal() {
        println!("\x1b[?25h");
    }
}

struct Row {
    source: String,
    destination: String,
    rate: f64,
    success: f64,
    p50: Option<f64>,
    p99: Option<f64>,
}

fn millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |s| format!("{:.1} ms", s * 1e3))
}

/// Name, instances, version, and what is special.
fn services() -> Vec<(&'static str, usize, &'static str, &'static str)> {
    let mut found: Vec<(&str, usize, &str, &str)> = Vec::new();
    for member in MEMBERS {
        let note = match member.service {
            "catalog-v1" => "weight 90 of catalog at the start",
            "catalog-v2" => "canary, weight 10 at the start",
            "payment" => "one instance answers 503 and is ejected; only cart may call it",
            _ => "",
        };
        match found.iter_mut().find(|f| f.0 == member.service) {
            Some(entry) => entry.1 += 1,
            None => found.push((member.service, 1, member.version, note)),
        }
    }
    found
}

fn next_steps(mesh: &Mesh) -> String {
    format!(
        "\nTry in another terminal:\n\
         \x20 export LENO_API={} LENO_ADMIN_TOKEN_FILE={}\n\
         \x20 leno status\n\
         \x20 leno get endpoints\n\
         \x20 leno get httproute catalog-canary -o yaml     # change the weights and: leno apply -f -\n\
         \x20 leno describe service payment\n\
         \x20 curl http://{}/shoes                          # as a shopper\n\
         Ctrl-C ends everything and removes {}\n",
        mesh.api,
        mesh.data_dir.join("admin.token").display(),
        mesh.shop_address(),
        mesh.folder().display()
    )
}

fn json_line(mesh: &Mesh, load: &Load, rows: &[Row]) -> String {
    let (p50, p99) = load.take_percentiles();
    let edges: Vec<_> = rows
        .iter()
        .map(|r| {
            json!({"source": r.source, "destination": r.destination, "requests_per_second": r.rate,
                   "success_percent": r.success, "p50_seconds": r.p50, "p99_seconds": r.p99})
        })
        .collect();
    let line = json!({
        "answered": load.fine.get(), "failed": load.failed.get(),
        "p50_seconds": p50.as_secs_f64(), "p99_seconds": p99.as_secs_f64(),
        "first_answer_seconds": load.first_answer().map(|at| (at - mesh.started).as_secs_f64()),
        "api": mesh.api, "admin_token_file": mesh.data_dir.join("admin.token"), "shop": mesh.shop_address().to_string(),
        "edges": edges,
    });
    format!("{line}\n")
}
