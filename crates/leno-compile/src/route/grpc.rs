//! GRPCRoute rules.

use leno_model::diagnostic::Code;
use leno_model::kinds::GrpcRouteSpec;
use leno_model::kinds::grpc_route::{GrpcFilterType, GrpcRouteFilter, GrpcRouteMatch, GrpcRouteRule};
use leno_model::resource::ResourceRef;
use leno_plan::{Filter, PathMatch, RouteMatch, RouteRule, RouteTimeouts, TextMatch};

use super::{CompiledRule, RouteContext};
use crate::collection::Fault;

/// Whether the route compiles on its own.
pub(crate) fn probe(key: &ResourceRef, spec: &GrpcRouteSpec) -> Result<(), Fault> {
    super::probe(key, |context| compile(spec, context))
}

/// All rules of a route, or the first fault.
pub(crate) fn compile(spec: &GrpcRouteSpec, context: &mut RouteContext<'_>) -> Result<Vec<CompiledRule>, Fault> {
    let default = [GrpcRouteRule::default()];
    let rules = if spec.rules.is_empty() { &default[..] } else { &spec.rules };
    rules.iter().enumerate().map(|(index, rule)| compile_rule(rule, index, context)).collect()
}

fn compile_rule(rule: &GrpcRouteRule, index: usize, context: &mut RouteContext<'_>) -> Result<CompiledRule, Fault> {
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
        context.warn(Code::UnsupportedValue, &path, format!("{detail}; calls of the rule are refused"));
        return Ok(CompiledRule { rule: context.refused_rule(name, &detail), matches });
    }
    let mut filters = Vec::new();
    for (index, filter) in rule.filters.iter().enumerate() {
        filters.push(compile_filter(filter, &format!("{path}.filters[{index}]"), context)?);
    }
    let compiled = RouteRule {
        name: name.into(),
        filters,
        backends: context.backends(&rule.backend_refs, &path),
        timeouts: RouteTimeouts::default(),
        retry: None,
    };
    Ok(CompiledRule { rule: compiled, matches })
}

fn condition(m: &GrpcRouteMatch, path: &str, context: &RouteContext<'_>) -> Result<RouteMatch, Fault> {
    let path_match = match &m.method {
        None => None,
        Some(method) => {
            let text = |value: &Option<String>| -> Result<Option<TextMatch>, Fault> {
                value.as_deref().map(|v| context.text(method.kind, v, &format!("{path}.method"))).transpose()
            };
            let (service, method) = (text(&method.service)?, text(&method.method)?);
            Some(PathMatch::Grpc { service, method })
        }
    };
    Ok(RouteMatch { path: path_match, headers: context.headers(&m.headers, path)?, ..RouteMatch::default() })
}

fn compile_filter(filter: &GrpcRouteFilter, path: &str, context: &RouteContext<'_>) -> Result<Filter, Fault> {
    let missing = || context.error(Code::MissingField, path, format!("the settings of {:?} are absent", filter.kind));
    match filter.kind {
        GrpcFilterType::RequestHeaderModifier => {
            let modifier = filter.request_header_modifier.as_ref().ok_or_else(missing)?;
            Ok(Filter::RequestHeaders(context.header_edit(modifier, path)?))
        }
        GrpcFilterType::ResponseHeaderModifier => {
            let modifier = filter.response_header_modifier.as_ref().ok_or_else(missing)?;
            Ok(Filter::ResponseHeaders(context.header_edit(modifier, path)?))
        }
        _ => Err(context.error(Code::UnsupportedValue, path, "not supported")),
    }
}
