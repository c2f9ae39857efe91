//! Plans in words, for `leno describe` and plan dumps.

use std::fmt::Write as _;

use leno_plan::route::RouteChoice;
use leno_plan::{BackendTarget, DestinationPlan, Filter, InboundPlan, PathMatch, RouteMatch, RouteRule, TextMatch};

/// How a service is called: its ports, the rules in the order they are tried, the endpoints.
#[must_use]
pub fn explain_destination(plan: &DestinationPlan) -> String {
    let mut text = format!("service {}, version {}\n", plan.service, plan.version);
    if plan.identities.is_empty() {
        text.push_str("  no identity is authorised to serve it: it cannot be called\n");
    }
    for identity in plan.identities.iter() {
        line(&mut text, format_args!("  served by {identity}"));
    }
    for (number, port) in &plan.ports {
        let protocol = port.protocol.map_or("detected", leno_model::AppProtocol::as_str);
        line(&mut text, format_args!("  port {number} ({protocol}), {} ready endpoints", port.endpoints.len()));
        for entry in port.routes.entries() {
            let rule = &port.routes.rules()[entry.rule];
            line(&mut text, format_args!("    {} -> {}", condition(&entry.condition), outcome(rule)));
        }
    }
    text
}

/// How a service is served: its ports and what they lead to.
#[must_use]
pub fn explain_inbound(plan: &InboundPlan) -> String {
    let mut text = format!("service {}, version {}\n", plan.service, plan.version);
    for (number, port) in &plan.ports {
        let protocol = port.protocol.map_or("as the caller says", leno_model::AppProtocol::as_str);
        let judged = if port.access.judges_requests() { "by caller and request" } else { "by caller" };
        line(
            &mut text,
            format_args!("  port {number} ({protocol}) -> application port {}, access judged {judged}", port.app_port),
        );
    }
    text
}

/// Why a request took the rule it took.
#[must_use]
pub fn explain_choice(choice: &RouteChoice<'_>) -> String {
    format!("{} -> {}", condition(choice.condition), outcome(choice.rule))
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}

fn condition(m: &RouteMatch) -> String {
    let mut parts = Vec::new();
    if let Some(method) = &m.method {
        parts.push(method.to_string());
    }
    let bytes = |b: &[u8]| String::from_utf8_lossy(b).escape_debug().to_string();
    let value = |t: &TextMatch| match t {
        TextMatch::Exact(t) => format!("= {t:?}"),
        TextMatch::Regex(p) => format!("~ {:?}", p.as_str()),
    };
    match &m.path {
        None => {}
        Some(PathMatch::Exact(path)) => parts.push(format!("path = {}", bytes(path))),
        Some(PathMatch::Prefix { text, .. }) => parts.push(format!("path under {}/", bytes(text))),
        Some(PathMatch::Suffix(text)) => parts.push(format!("path ends with {}", bytes(text))),
        Some(PathMatch::Regex(pattern)) => parts.push(format!("path ~ {:?}", pattern.as_str())),
        Some(PathMatch::Grpc { service, method }) => {
            let or_any = |t: &Option<TextMatch>| t.as_ref().map_or("any".to_owned(), value);
            parts.push(format!("gRPC service {}, method {}", or_any(service), or_any(method)));
        }
    }
    parts.extend(m.headers.iter().map(|h| match &h.value {
        Some(v) => format!("header {} {}", h.name, value(v)),
        None => format!("header {} present", h.name),
    }));
    parts.extend(m.query.iter().map(|q| format!("query {:?} {}", q.name, value(&q.value))));
    if parts.is_empty() { "anything".to_owned() } else { parts.join(", ") }
}

fn outcome(rule: &RouteRule) -> String {
    let mut steps: Vec<String> = rule
        .filters
        .iter()
        .map(|filter| match filter {
            Filter::RequestHeaders(_) => "edit request headers".to_owned(),
            Filter::ResponseHeaders(_) => "edit response headers".to_owned(),
            Filter::Redirect(redirect) => format!("redirect with {}", redirect.status),
            Filter::Rewrite(_) => "rewrite".to_owned(),
        })
        .collect();
    let total: u64 = rule.backends.iter().map(|b| u64::from(b.weight)).sum();
    let backends: Vec<String> = rule
        .backends
        .iter()
        .map(|b| {
            let share = if total == 0 { 0.0 } else { f64::from(b.weight) * 100.0 / total as f64 };
            let target = match &b.target {
                BackendTarget::Service { service, port: Some(port) } => format!("{service}:{port}"),
                BackendTarget::Service { service, port: None } => service.to_string(),
                BackendTarget::Refused { detail } => format!("refused ({detail})"),
            };
            if rule.backends.len() == 1 { target } else { format!("{target} {share:.1}%") }
        })
        .collect();
    if !backends.is_empty() {
        steps.push(backends.join(", "));
    } else if !rule.filters.iter().any(|f| matches!(f, Filter::Redirect(_))) {
        steps.push("refused (no backend)".to_owned());
    }
    format!("{} [rule {}]", steps.join(", "), rule.name)
}

#[cfg(test)]
mod tests;
