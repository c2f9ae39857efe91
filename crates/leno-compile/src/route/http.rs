//! HTTPRoute rules.

use leno_model::TimeSpan;
use leno_model::diagnostic::Code;
use leno_model::kinds::HttpRouteSpec;
use leno_model::kinds::http_route::{
    HttpFilterType, HttpPathMatch, HttpRouteFilter, HttpRouteMatch, HttpRouteRetry, HttpRouteRule, PathMatchType,
    PathModifier as PathModifierSpec, PathModifierType, RedirectScheme, RequestRedirect,
};
use leno_model::resource::ResourceRef;
use leno_plan::{
    Filter, PathMatch, PathModifier, QueryMatch, Redirect, RetryPolicy, Rewrite, RouteMatch, RouteRule, RouteTimeouts,
    TimeoutSetting,
};

use super::{CompiledRule, RouteContext};
use crate::collection::Fault;
use crate::policy::small;

/// Whether the route compiles on its own.
pub(crate) fn probe(key: &ResourceRef, spec: &HttpRouteSpec) -> Result<(), Fault> {
    super::probe(key, |context| compile(spec, context))
}

/// All rules of a route, or the first fault. One fault sets the whole route aside: half a route could send requests where the
/// other half was to keep them from.
pub(crate) fn compile(spec: &HttpRouteSpec, context: &mut RouteContext<'_>) -> Result<Vec<CompiledRule>, Fault> {
    // A route without rules has one that matches everything and leads nowhere (the API's default).
    let default = [HttpRouteRule::default()];
    let rules = if spec.rules.is_empty() { &default[..] } else { &spec.rules };
    rules.iter().enumerate().map(|(index, rule)| compile_rule(rule, index, context)).collect()
}

fn compile_rule(rule: &HttpRouteRule, index: usize, context: &mut RouteContext<'_>) -> Result<CompiledRule, Fault> {
    let path = format!("spec.rules[{index}]");
    let name = context.rule_name(rule.name.as_deref(), index);
    let mut matches = Vec::new();
    for (index, m) in rule.matches.iter().enumerate() {
        matches.push(condition(m, &format!("{path}.matches[{index}]"), context)?);
    }
    if matches.is_empty() {
        matches.push(RouteMatch::default());
    }
    if let Some(at) = rule.filters.iter().position(|f| !f.kind.is_supported()) {
        let path = format!("{path}.filters[{at}].type");
        let detail = format!("the filter {:?} is not supported", rule.filters[at].kind);
        context.warn(Code::UnsupportedValue, &path, format!("{detail}; requests of the rule are refused"));
        return Ok(CompiledRule { rule: context.refused_rule(name, &detail), matches });
    }
    let mut filters = Vec::new();
    for (index, filter) in rule.filters.iter().enumerate() {
        filters.push(compile_filter(filter, &format!("{path}.filters[{index}]"), context)?);
    }
    let redirects = filters.iter().any(|f| matches!(f, Filter::Redirect(_)));
    let timeouts = rule.timeouts.as_ref();
    let compiled = RouteRule {
        name: name.into(),
        filters,
        backends: if redirects { Vec::new() } else { context.backends(&rule.backend_refs, &path) },
        timeouts: RouteTimeouts {
            request: setting(timeouts.and_then(|t| t.request)),
            attempt: setting(timeouts.and_then(|t| t.backend_request)),
        },
        retry: rule.retry.as_ref().map(|r| retry(r, context.retry)),
    };
    Ok(CompiledRule { rule: compiled, matches })
}

fn setting(span: Option<TimeSpan>) -> TimeoutSetting {
    match span.map(TimeSpan::limit) {
        None => TimeoutSetting::Inherit,
        Some(None) => TimeoutSetting::Off,
        Some(Some(limit)) => TimeoutSetting::After(limit),
    }
}

fn retry(spec: &HttpRouteRetry, base: &RetryPolicy) -> RetryPolicy {
    RetryPolicy {
        retries: spec.attempts.map_or(base.retries, small),
        statuses: if spec.codes.is_empty() { base.statuses.clone() } else { spec.codes.clone() },
        backoff: spec.backoff.map_or(base.backoff, TimeSpan::get),
        ..base.clone()
    }
}

fn condition(m: &HttpRouteMatch, path: &str, context: &RouteContext<'_>) -> Result<RouteMatch, Fault> {
    let method = match m.method {
        None => None,
        Some(method) => Some(method.token().ok_or_else(|| {
            context.error(Code::UnsupportedValue, &format!("{path}.method"), "unknown to this version")
        })?),
    };
    let mut query: Vec<QueryMatch> = Vec::new();
    for (index, q) in m.query_params.iter().enumerate() {
        // As for headers, the first of a name counts.
        if query.iter().all(|known| *known.name != *q.name) {
            let value = context.text(q.kind, &q.value, &format!("{path}.queryParams[{index}]"))?;
            query.push(QueryMatch { name: q.name.as_str().into(), value });
        }
    }
    Ok(RouteMatch {
        path: match &m.path {
            Some(p) => path_match(p, &format!("{path}.path"), context)?,
            None => None,
        },
        method: method.map(Into::into),
        headers: context.headers(&m.headers, path)?,
        query,
    })
}

/// The prefix `/` is no condition, so that it does not make paths be normalised.
fn path_match(p: &HttpPathMatch, path: &str, context: &RouteContext<'_>) -> Result<Option<PathMatch>, Fault> {
    let bad =
        |e: leno_plan::path::PathError| context.error(Code::InvalidValue, &format!("{path}.value"), e.to_string());
    match p.kind {
        PathMatchType::PathPrefix if p.value == "/" => Ok(None),
        PathMatchType::PathPrefix => PathMatch::prefix(&p.value).map(Some).map_err(bad),
        PathMatchType::Exact => PathMatch::exact(&p.value).map(Some).map_err(bad),
        PathMatchType::RegularExpression => Ok(Some(PathMatch::Regex(context.regex(&p.value, path)?))),
        PathMatchType::Unknown => {
            Err(context.error(Code::UnsupportedValue, &format!("{path}.type"), "unknown to this version"))
        }
    }
}

fn compile_filter(filter: &HttpRouteFilter, path: &str, context: &RouteContext<'_>) -> Result<Filter, Fault> {
    let missing = || context.error(Code::MissingField, path, format!("the settings of {:?} are absent", filter.kind));
    match filter.kind {
        HttpFilterType::RequestHeaderModifier => {
            let modifier = filter.request_header_modifier.as_ref().ok_or_else(missing)?;
            Ok(Filter::RequestHeaders(context.header_edit(modifier, path)?))
        }
        HttpFilterType::ResponseHeaderModifier => {
            let modifier = filter.response_header_modifier.as_ref().ok_or_else(missing)?;
            Ok(Filter::ResponseHeaders(context.header_edit(modifier, path)?))
        }
        HttpFilterType::RequestRedirect => {
            redirect(filter.request_redirect.as_ref().ok_or_else(missing)?, path, context).map(Filter::Redirect)
        }
        HttpFilterType::UrlRewrite => {
            let rewrite = filter.url_rewrite.as_ref().ok_or_else(missing)?;
            Ok(Filter::Rewrite(Rewrite {
                hostname: hostname(rewrite.hostname.as_deref(), path, context)?,
                path: modifier(rewrite.path.as_ref(), path, context)?,
            }))
        }
        _ => Err(context.error(Code::UnsupportedValue, path, "not supported")),
    }
}

fn redirect(spec: &RequestRedirect, path: &str, context: &RouteContext<'_>) -> Result<Redirect, Fault> {
    let status = spec.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(context.error(Code::InvalidValue, path, format!("{status} is not the status of a redirect")));
    }
    Ok(Redirect {
        scheme: spec.scheme.map(|s| match s {
            RedirectScheme::Http => "http".into(),
            RedirectScheme::Https => "https".into(),
        }),
        hostname: hostname(spec.hostname.as_deref(), path, context)?,
        port: spec.port.filter(|p| *p != 0),
        path: modifier(spec.path.as_ref(), path, context)?,
        status,
    })
}

/// What comes from elsewhere than a user's checked file must still not put a line break into a head.
fn hostname(host: Option<&str>, path: &str, context: &RouteContext<'_>) -> Result<Option<Box<str>>, Fault> {
    match host {
        Some(host) if !leno_model::validate::text::is_host(host) => {
            Err(context.error(Code::InvalidValue, path, format!("`{}` is not a host name", host.escape_debug())))
        }
        host => Ok(host.map(Into::into)),
    }
}

fn modifier(
    spec: Option<&PathModifierSpec>,
    path: &str,
    context: &RouteContext<'_>,
) -> Result<Option<PathModifier>, Fault> {
    let Some(spec) = spec else { return Ok(None) };
    let checked = |value: &Option<String>| -> Result<Box<str>, Fault> {
        let value =
            value.as_deref().ok_or_else(|| context.error(Code::MissingField, path, "the new path is absent"))?;
        if !value.is_empty() {
            leno_model::validate::text::path(value).map_err(|e| context.error(Code::InvalidValue, path, e))?;
        }
        Ok(value.into())
    };
    match spec.kind {
        PathModifierType::ReplaceFullPath => Ok(Some(PathModifier::Full(checked(&spec.replace_full_path)?))),
        PathModifierType::ReplacePrefixMatch => Ok(Some(PathModifier::Prefix(checked(&spec.replace_prefix_match)?))),
        PathModifierType::Unknown => Err(context.error(Code::UnsupportedValue, path, "unknown to this version")),
    }
}
