//! Which entries a path may take, so that five thousand rules cost what ten cost.
//!
//! ```text
//!   /api/v1/cart/7 ── whole path ───────────▶ exact    [9, 12]     ┐
//!                  ├─ prefixes by elements ─▶ prefix   [40] [4711] ├─▶ the lowest position whose entry matches
//!                  └─ always ───────────────▶ others   [2, 5000]   ┘
//! ```
//!
//! It only leaves out entries that cannot match: those that it gives are still compared whole, and of all that match the
//! first in order of precedence is taken, as if all had been compared.
//!
//! *Not indexed*, and so compared one by one: entries without a path condition, regexes, suffixes, and gRPC methods without a
//! service. Entries of one path that differ by method, header or query are compared one by one among themselves.

use smallvec::SmallVec;

use super::{PathMatch, RouteEntry};
use crate::lookup::{Positions, TextHash};
use crate::matching::TextMatch;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PathIndex {
    exact: Positions,
    prefix: Positions,
    others: Box<[u32]>,
    /// Bytes of the longest text in `exact`; longer paths are not looked up.
    longest_exact: usize,
    /// Bytes of the longest text in `prefix`.
    longest_prefix: usize,
    /// A bit for each number of slashes that some text in `prefix` has; the last one also for all above.
    depths: u64,
}

/// How an entry is found.
enum Found {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Always,
}

impl Found {
    fn of(path: Option<&PathMatch>) -> Self {
        match path {
            Some(PathMatch::Exact(text)) => Self::Exact(text.clone()),
            Some(PathMatch::Prefix { text, .. }) => Self::Prefix(text.clone()),
            // A method's path is `/service/method`, without any further slash.
            Some(PathMatch::Grpc { service: Some(TextMatch::Exact(service)), method }) => match method {
                Some(TextMatch::Exact(method)) => Self::Exact(format!("/{service}/{method}").into_bytes().into()),
                Some(TextMatch::Regex(_)) | None => Self::Prefix(format!("/{service}").into_bytes().into()),
            },
            Some(PathMatch::Suffix(_) | PathMatch::Regex(_) | PathMatch::Grpc { .. }) | None => Self::Always,
        }
    }
}

impl PathIndex {
    /// Of entries in order of precedence.
    pub(super) fn new(entries: &[RouteEntry]) -> Self {
        let (mut index, mut exact, mut prefix, mut others) = (Self::default(), Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in (0_u32..).zip(entries) {
            match Found::of(entry.condition.path.as_ref()) {
                Found::Exact(text) => {
                    index.longest_exact = index.longest_exact.max(text.len());
                    exact.push((TextHash::new(0).text(&text).get(), at));
                }
                Found::Prefix(text) => {
                    index.longest_prefix = index.longest_prefix.max(text.len());
                    index.depths |= depth_bit(text.iter().filter(|&&b| b == b'/').count());
                    prefix.push((TextHash::new(0).text(&text).get(), at));
                }
                Found::Always => others.push(at),
            }
        }
        Self { exact: Positions::new(exact), prefix: Positions::new(prefix), others: others.into(), ..index }
    }

    /// The first position at which `is_match` holds, asked only where the (decoded) path leaves it possible.
    pub(super) fn first(&self, path: &[u8], is_match: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        let mut consider = |positions: &[u32]| {
            let before = positions.iter().copied().take_while(|&at| at < best);
            if let Some(at) = before.into_iter().find(|&at| is_match(at)) {
                best = at;
            }
        };
        let (exact, prefixes) = self.by_path(path);
        consider(exact);
        // The longest first: it nearly always has precedence, and spares comparing the others.
        prefixes.iter().rev().for_each(|positions| consider(positions));
        consider(&self.others);
        (best != u32::MAX).then_some(best)
    }

    /// What one walk over the path finds: entries of the whole of it, and of each of its prefixes by elements.
    fn by_path(&self, path: &[u8]) -> (&[u32], SmallVec<[&[u32]; 8]>) {
        let mut prefixes = SmallVec::new();
        let (mut hash, mut depth) = (TextHash::new(0), 0);
        let mut boundary = |hash: TextHash, depth: usize| {
            if self.depths & depth_bit(depth) != 0 {
                let found = self.prefix.of(hash.get());
                if !found.is_empty() {
                    prefixes.push(found);
                }
            }
        };
        let is_short = path.len() <= self.longest_exact;
        for (at, &byte) in path.iter().enumerate() {
            if byte == b'/' {
                boundary(hash, depth);
                depth += 1;
            }
            if at >= self.longest_prefix && !is_short {
                return (&[], prefixes);
            }
            hash.byte(byte);
        }
        boundary(hash, depth);
        (if is_short { self.exact.of(hash.get()) } else { &[] }, prefixes)
    }

    /// Heap bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.exact.bytes() + self.prefix.bytes() + size_of_val(&*self.others)
    }
}

fn depth_bit(slashes: usize) -> u64 {
    1 << slashes.min(63)
}

#[cfg(test)]
mod tests {
    use super::super::{RouteMatch, RouteRule, RouteTable};
    use super::*;
    use crate::matching::{HeaderMatch, Pattern, QueryMatch};
    use crate::path;
    use crate::request::RequestView;
    use leno_model::NamespacedName;
    use proptest::prelude::*;

    fn rule(n: usize) -> RouteRule {
        RouteRule::to_service(&format!("rule-{n}"), NamespacedName::new("shop", "web").unwrap(), 80)
    }

    fn table(conditions: Vec<RouteMatch>) -> RouteTable {
        let rules = (0..conditions.len()).map(rule).collect();
        let entries = conditions.into_iter().enumerate().map(|(rule, condition)| RouteEntry { condition, rule });
        RouteTable::new(rules, entries.collect())
    }

    /// All entries compared in order: what a table means.
    fn linear(table: &RouteTable, request: &RequestView<'_>) -> Option<usize> {
        let decoded = if table.matches_paths() { path::decode(request.path) } else { request.path.into() };
        table.entries().iter().position(|e| e.condition.is_match(request, &decoded))
    }

    fn indexed(table: &RouteTable, request: &RequestView<'_>) -> Option<usize> {
        let choice = table.choose(request)?;
        table.entries().iter().position(|e| std::ptr::eq(&raw const e.condition, choice.condition))
    }

    fn text(exact: &str) -> impl Strategy<Value = Option<TextMatch>> + use<> {
        let exact = TextMatch::Exact(exact.into());
        let regex = TextMatch::Regex(Pattern::new("[a-b]+").unwrap());
        prop_oneof![Just(None), Just(Some(exact)), Just(Some(regex))]
    }

    /// Few letters, so that texts meet; raw texts too, which no compiler makes.
    fn path_match() -> impl Strategy<Value = PathMatch> {
        let written = "(/[ab:]{1,2}){0,4}/?";
        let raw = "[/a]{0,4}";
        let prefix =
            |text: String| PathMatch::Prefix { elements: text.matches('/').count(), text: text.into_bytes().into() };
        let grpc = ("[ab/]{0,2}", "[ab/]{0,2}").prop_flat_map(|(s, m)| {
            (text(&s), text(&m)).prop_map(|(service, method)| PathMatch::Grpc { service, method })
        });
        prop_oneof![
            4 => written.prop_map(|p| PathMatch::exact(&format!("/{p}")).unwrap()),
            4 => written.prop_map(|p| PathMatch::prefix(&format!("/{p}")).unwrap()),
            1 => raw.prop_map(|p| PathMatch::Exact(p.into_bytes().into())),
            1 => raw.prop_map(prefix),
            1 => raw.prop_map(|p| PathMatch::Suffix(p.into_bytes().into())),
            1 => Just(PathMatch::Regex(Pattern::new("/a+(/.*)?").unwrap())),
            2 => grpc,
        ]
    }

    fn condition() -> impl Strategy<Value = RouteMatch> {
        let methods = prop_oneof![3 => Just(None), 1 => Just(Some("GET".into())), 1 => Just(Some("POST".into()))];
        let header = HeaderMatch { name: "x-a".into(), value: Some(TextMatch::Exact("1".into())) };
        let headers = prop_oneof![4 => Just(vec![]), 1 => Just(vec![header])];
        let query = QueryMatch { name: "v".into(), value: TextMatch::Exact("1".into()) };
        let queries = prop_oneof![6 => Just(vec![]), 1 => Just(vec![query])];
        let path = prop_oneof![9 => path_match().prop_map(Some), 1 => Just(None)];
        (path, methods, headers, queries).prop_map(|(path, method, headers, query)| RouteMatch {
            path,
            method,
            headers,
            query,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn the_index_decides_as_comparing_all_in_order(
            conditions in proptest::collection::vec(condition(), 0..40),
            in_precedence in any::<bool>(),
            requests in proptest::collection::vec(
                ("(/[ab:]{1,2}){0,5}/?|/?[a/%:]{0,4}|\\*", any::<bool>(), any::<bool>(), any::<bool>()), 1..20),
        ) {
            let mut conditions = conditions;
            if in_precedence {
                conditions.sort_by_key(|c| std::cmp::Reverse(c.specificity()));
            }
            let table = table(conditions);
            for (path, is_get, has_header, has_query) in &requests {
                let headers: &[(&str, &str)] = if *has_header { &[("x-a", "1")] } else { &[] };
                let request = RequestView {
                    method: if *is_get { b"GET" } else { b"POST" },
                    path: path.as_bytes(),
                    query: has_query.then_some(b"v=1"),
                    authority: b"web",
                    headers: &headers,
                };
                prop_assert_eq!(indexed(&table, &request), linear(&table, &request), "{} of {:?}", path, table.entries());
            }
        }
    }

    #[test]
    fn an_index_of_five_thousand_is_small_and_asks_little() {
        let condition = |n: usize| {
            let text = format!("/api/v1/part-{n}");
            let path = if n.is_multiple_of(2) { PathMatch::exact(&text) } else { PathMatch::prefix(&text) };
            RouteMatch { path: Some(path.unwrap()), ..RouteMatch::default() }
        };
        let table = table((0..5000).map(condition).collect());
        let index = table.index.as_deref().expect("many entries have one");
        let per_entry = index.bytes() / 5000;
        println!("index of 5,000 entries: {} bytes", index.bytes());
        assert!(per_entry <= 40, "{per_entry} bytes per entry");
        for (path, expected) in
            [("/api/v1/part-4998", Some(4998)), ("/api/v1/part-4999/items", Some(4999)), ("/x", None)]
        {
            let asked = std::cell::Cell::new(0);
            let found = index.first(path.as_bytes(), |at| {
                asked.set(asked.get() + 1);
                let condition = table.entries()[at as usize].condition.path.as_ref();
                condition.is_some_and(|p| p.is_match(path.as_bytes()))
            });
            assert_eq!((found, asked.get() <= 2), (expected, true), "{path}: {} entries compared", asked.get());
        }
    }
}
