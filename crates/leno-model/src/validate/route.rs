//! `HTTPRoute` and `GRPCRoute`.

use std::collections::BTreeSet;

use super::{label, text};
use crate::diagnostic::Code;
use crate::kinds::filters::{HeaderModifier, NamedMatch, TextMatchType};
use crate::kinds::grpc_route::{GrpcFilterType, GrpcMethodMatch, GrpcRouteFilter};
use crate::kinds::http_route::{
    HttpFilterType, HttpPathMatch, HttpRouteFilter, HttpRouteRule, PathMatchType, PathModifier, PathModifierType,
};
use crate::kinds::references::{BackendRef, ParentRef};
use crate::kinds::{GrpcRouteSpec, HttpRouteSpec};
use crate::path::FieldPath;
use crate::resource::Resource;
use crate::schema::Findings;
use crate::yaml::clip;

/// Judges an HTTPRoute.
pub fn http_route(spec: &HttpRouteSpec, resource: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    parents(&spec.parent_refs, resource, path, findings);
    let mut names = BTreeSet::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = path.key("rules").index(index);
        rule_name(rule.name.as_deref(), &mut names, &path, findings);
        for (index, m) in rule.matches.iter().enumerate() {
            let path = path.key("matches").index(index);
            if let Some(m) = &m.path {
                path_match(m, &path.key("path"), findings);
            }
            named_matches(&m.headers, true, &path.key("headers"), findings);
            named_matches(&m.query_params, false, &path.key("queryParams"), findings);
        }
        http_filters(rule, &path, findings);
        backends(&rule.backend_refs, &path, findings);
        if let Some(timeouts) = &rule.timeouts {
            let (request, backend) = (timeouts.request, timeouts.backend_request);
            if let (Some(request), Some(backend)) = (request.and_then(|t| t.limit()), backend.map(|t| t.get()))
                && (backend > request || backend.is_zero())
            {
                let message = "must not be longer than timeouts.request";
                findings.error(Code::InvalidValue, &path.key("timeouts").key("backendRequest"), message);
            }
        }
    }
}

/// Judges a GRPCRoute.
pub fn grpc_route(spec: &GrpcRouteSpec, resource: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    parents(&spec.parent_refs, resource, path, findings);
    let mut names = BTreeSet::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = path.key("rules").index(index);
        rule_name(rule.name.as_deref(), &mut names, &path, findings);
        for (index, m) in rule.matches.iter().enumerate() {
            let path = path.key("matches").index(index);
            if let Some(m) = &m.method {
                method_match(m, &path.key("method"), findings);
            }
            named_matches(&m.headers, true, &path.key("headers"), findings);
        }
        let mut seen = BTreeSet::new();
        for (index, filter) in rule.filters.iter().enumerate() {
            let path = path.key("filters").index(index);
            grpc_filter(filter, &path, findings);
            if !seen.insert(format!("{:?}", filter.kind)) {
                findings.error(Code::InvalidValue, &path, "this type of filter is there twice");
            }
        }
        backends(&rule.backend_refs, &path, findings);
    }
}

fn parents(parents: &[ParentRef], resource: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    let list = path.key("parentRefs");
    if parents.is_empty() {
        findings.warning(Code::NoMatchingParent, &list, "the route is attached to nothing");
    }
    for (index, parent) in parents.iter().enumerate() {
        let path = list.index(index);
        if !parent.is_service() {
            let message = format!("attached to a {}: only Services are served here", clip(&parent.kind));
            findings.warning(Code::UnsupportedValue, &path.key("kind"), message);
            continue;
        }
        label(&parent.name, &path.key("name"), findings);
        if parent.namespace.as_deref().is_some_and(|n| n != resource.metadata.namespace) {
            let message = "a route acts on Services of its own namespace only; this one is not acted on";
            findings.warning(Code::NoMatchingParent, &path.key("namespace"), message);
        }
        if let Some(section) = &parent.section_name {
            label(section, &path.key("sectionName"), findings);
        }
    }
}

fn rule_name<'r>(name: Option<&'r str>, names: &mut BTreeSet<&'r str>, path: &FieldPath, findings: &mut Findings<'_>) {
    let Some(name) = name else { return };
    label(name, &path.key("name"), findings);
    if !names.insert(name) {
        findings.error(Code::InvalidValue, &path.key("name"), format!("`{}` is there twice", clip(name)));
    }
}

fn path_match(m: &HttpPathMatch, path: &FieldPath, findings: &mut Findings<'_>) {
    let judged = match m.kind {
        PathMatchType::Exact | PathMatchType::PathPrefix => text::path(&m.value),
        PathMatchType::RegularExpression => text::regex(&m.value),
        PathMatchType::Unknown => Ok(()),
    };
    if let Err(error) = judged {
        findings.error(Code::InvalidValue, &path.key("value"), error);
    }
}

fn named_matches(matches: &[NamedMatch], headers: bool, path: &FieldPath, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for (index, m) in matches.iter().enumerate() {
        let path = path.index(index);
        let key = if headers { m.name.to_ascii_lowercase() } else { m.name.clone() };
        if m.name.is_empty() || m.name.len() > 256 || (headers && !text::is_token(&m.name)) {
            let what = if headers { "header name" } else { "query parameter name" };
            findings.error(Code::InvalidValue, &path.key("name"), format!("`{}` is not a {what}", clip(&m.name)));
        } else if !seen.insert(key) {
            // The Gateway API lets the first one win; saying so beats ignoring the second.
            let message = format!("`{}` is there twice; one condition per name", clip(&m.name));
            findings.error(Code::InvalidValue, &path.key("name"), message);
        }
        let judged = match m.kind {
            TextMatchType::RegularExpression => text::regex(&m.value),
            _ if m.value.len() > 4096 => Err("longer than 4096 bytes".to_owned()),
            _ => Ok(()),
        };
        if let Err(error) = judged {
            findings.error(Code::InvalidValue, &path.key("value"), error);
        }
    }
}

fn method_match(m: &GrpcMethodMatch, path: &FieldPath, findings: &mut Findings<'_>) {
    if m.service.is_none() && m.method.is_none() {
        findings.error(Code::MissingField, path, "one of service and method is required");
    }
    for (field, value) in [("service", &m.service), ("method", &m.method)] {
        let Some(value) = value else { continue };
        let judged = match m.kind {
            TextMatchType::RegularExpression => text::regex(value),
            _ if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_')) => {
                Err(format!("`{}` is not a gRPC {field} name", clip(value)))
            }
            _ => Ok(()),
        };
        if let Err(error) = judged {
            findings.error(Code::InvalidValue, &path.key(field), error);
        }
    }
}

fn backends(backends: &[BackendRef], path: &FieldPath, findings: &mut Findings<'_>) {
    for (index, backend) in backends.iter().enumerate() {
        let path = path.key("backendRefs").index(index);
        if !backend.is_service() {
            let message = format!("a backend is a Service, not a {}; its share is refused", clip(&backend.kind));
            findings.warning(Code::InvalidKind, &path.key("kind"), message);
            continue;
        }
        label(&backend.name, &path.key("name"), findings);
        if let Some(namespace) = &backend.namespace {
            label(namespace, &path.key("namespace"), findings);
        }
    }
}

fn http_filters(rule: &HttpRouteRule, path: &FieldPath, findings: &mut Findings<'_>) {
    let has = |kind| rule.filters.iter().any(|f| f.kind == kind);
    if has(HttpFilterType::RequestRedirect) {
        if has(HttpFilterType::UrlRewrite) {
            findings.error(
                Code::InvalidValue,
                &path.key("filters"),
                "RequestRedirect and URLRewrite exclude each other",
            );
        }
        if !rule.backend_refs.is_empty() {
            let message = "a rule with a RequestRedirect calls no backend";
            findings.error(Code::InvalidValue, &path.key("backendRefs"), message);
        }
    }
    let mut seen = BTreeSet::new();
    for (index, filter) in rule.filters.iter().enumerate() {
        let path = path.key("filters").index(index);
        http_filter(filter, rule, &path, findings);
        let repeatable = matches!(filter.kind, HttpFilterType::RequestMirror | HttpFilterType::ExtensionRef);
        if !repeatable && !seen.insert(format!("{:?}", filter.kind)) {
            findings.error(Code::InvalidValue, &path, "this type of filter is there twice");
        }
    }
}

fn http_filter(filter: &HttpRouteFilter, rule: &HttpRouteRule, path: &FieldPath, findings: &mut Findings<'_>) {
    use HttpFilterType as T;
    let settings = [
        (T::RequestHeaderModifier, "requestHeaderModifier", filter.request_header_modifier.is_some()),
        (T::ResponseHeaderModifier, "responseHeaderModifier", filter.response_header_modifier.is_some()),
        (T::RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
        (T::UrlRewrite, "urlRewrite", filter.url_rewrite.is_some()),
    ];
    filter_fields(&settings.map(|(kind, field, given)| (kind == filter.kind, field, given)), path, findings);
    if !filter.kind.is_supported() {
        let message = "this version does not act on this filter; requests of the rule are answered 500";
        findings.warning(Code::UnsupportedValue, &path.key("type"), message);
    }
    header_modifier(filter.request_header_modifier.as_ref(), &path.key("requestHeaderModifier"), findings);
    header_modifier(filter.response_header_modifier.as_ref(), &path.key("responseHeaderModifier"), findings);
    if let Some(redirect) = &filter.request_redirect {
        let path = path.key("requestRedirect");
        if redirect.status_code.is_some_and(|code| !matches!(code, 301 | 302 | 303 | 307 | 308)) {
            findings.error(Code::InvalidValue, &path.key("statusCode"), "must be one of 301, 302, 303, 307, 308");
        }
        hostname(redirect.hostname.as_deref(), &path, findings);
        path_modifier(redirect.path.as_ref(), rule, &path.key("path"), findings);
    }
    if let Some(rewrite) = &filter.url_rewrite {
        let path = path.key("urlRewrite");
        hostname(rewrite.hostname.as_deref(), &path, findings);
        path_modifier(rewrite.path.as_ref(), rule, &path.key("path"), findings);
    }
}

fn grpc_filter(filter: &GrpcRouteFilter, path: &FieldPath, findings: &mut Findings<'_>) {
    use GrpcFilterType as T;
    let settings = [
        (T::RequestHeaderModifier, "requestHeaderModifier", filter.request_header_modifier.is_some()),
        (T::ResponseHeaderModifier, "responseHeaderModifier", filter.response_header_modifier.is_some()),
    ];
    filter_fields(&settings.map(|(kind, field, given)| (kind == filter.kind, field, given)), path, findings);
    if !filter.kind.is_supported() {
        let message = "this version does not act on this filter; calls of the rule are answered UNAVAILABLE";
        findings.warning(Code::UnsupportedValue, &path.key("type"), message);
    }
    header_modifier(filter.request_header_modifier.as_ref(), &path.key("requestHeaderModifier"), findings);
    header_modifier(filter.response_header_modifier.as_ref(), &path.key("responseHeaderModifier"), findings);
}

/// `type` names the one field that is set. Each setting: whether `type` names it, its field, whether it is given.
fn filter_fields(settings: &[(bool, &str, bool)], path: &FieldPath, findings: &mut Findings<'_>) {
    for (named, field, given) in settings {
        match (named, given) {
            (true, false) => findings.error(Code::MissingField, &path.key(field), "required by `type`"),
            (false, true) => {
                findings.error(Code::InvalidValue, &path.key(field), "is of another filter than `type` says")
            }
            _ => {}
        }
    }
}

fn header_modifier(modifier: Option<&HeaderModifier>, path: &FieldPath, findings: &mut Findings<'_>) {
    let Some(modifier) = modifier else { return };
    let name = |name: &str, path: &FieldPath, findings: &mut Findings<'_>| {
        if !text::is_token(name) {
            findings.error(Code::InvalidValue, path, format!("`{}` is not a header name", clip(name)));
        } else if text::is_owned_header(name) {
            let message = format!("`{}` belongs to the proxy: changing it would break framing or routing", clip(name));
            findings.error(Code::InvalidValue, path, message);
        }
    };
    for (field, list) in [("set", &modifier.set), ("add", &modifier.add)] {
        for (index, header) in list.iter().enumerate() {
            let path = path.key(field).index(index);
            name(&header.name, &path.key("name"), findings);
            if !text::is_header_value(&header.value) {
                let message = "not a header value: printable ASCII without spaces at its ends";
                findings.error(Code::InvalidValue, &path.key("value"), message);
            }
        }
    }
    for (index, removed) in modifier.remove.iter().enumerate() {
        name(removed, &path.key("remove").index(index), findings);
    }
}

fn hostname(host: Option<&str>, path: &FieldPath, findings: &mut Findings<'_>) {
    if let Some(host) = host.filter(|h| !text::is_host(h)) {
        let message = format!("`{}` is not a lower-case host name", clip(host));
        findings.error(Code::InvalidValue, &path.key("hostname"), message);
    }
}

fn path_modifier(modifier: Option<&PathModifier>, rule: &HttpRouteRule, path: &FieldPath, findings: &mut Findings<'_>) {
    let Some(modifier) = modifier else { return };
    let (full, prefix) = (modifier.replace_full_path.as_deref(), modifier.replace_prefix_match.as_deref());
    filter_fields(
        &[
            (modifier.kind == PathModifierType::ReplaceFullPath, "replaceFullPath", full.is_some()),
            (modifier.kind == PathModifierType::ReplacePrefixMatch, "replacePrefixMatch", prefix.is_some()),
        ],
        path,
        findings,
    );
    for (field, value) in [("replaceFullPath", full), ("replacePrefixMatch", prefix)] {
        if let Some(Err(error)) = value.filter(|v| !v.is_empty()).map(text::path) {
            findings.error(Code::InvalidValue, &path.key(field), error);
        }
    }
    // Without a match of its own a rule matches the prefix `/`.
    let by_prefix = |p: &Option<HttpPathMatch>| p.as_ref().is_none_or(|p| p.kind == PathMatchType::PathPrefix);
    if modifier.kind == PathModifierType::ReplacePrefixMatch && !rule.matches.iter().all(|m| by_prefix(&m.path)) {
        let message = "needs matches of type PathPrefix throughout the rule";
        findings.error(Code::InvalidValue, &path.key("type"), message);
    }
}
