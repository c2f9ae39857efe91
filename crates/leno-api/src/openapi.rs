//! The OpenAPI 3.1 document, from the route table and the types.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::routes::{MAX_BODY, ROUTES, Route};
use crate::{bodies, members};

/// Builds the document. `resources` are the JSON schemas of the resource kinds, by kind.
#[must_use]
pub fn document(version: &str, resources: Vec<(String, Value)>) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    register_types(&mut generator);
    let mut schemas: Map<String, Value> = generator.take_definitions(true);
    let kinds: Vec<Value> =
        resources.iter().map(|(kind, _)| json!({ "$ref": format!("#/components/schemas/{kind}") })).collect();
    schemas.insert(
        "Resource".into(),
        if kinds.is_empty() { json!({ "type": "object" }) } else { json!({ "anyOf": kinds }) },
    );
    schemas.extend(resources);
    let mut paths = Map::new();
    for route in ROUTES {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Leno control plane", "version": version, "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "adminToken": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn register_types(generator: &mut SchemaGenerator) {
    generator.subschema_for::<bodies::ErrorBody>();
    generator.subschema_for::<bodies::ApplyResponse>();
    generator.subschema_for::<bodies::ResourceList>();
    generator.subschema_for::<bodies::WatchEvent>();
    generator.subschema_for::<members::TokenRequest>();
    generator.subschema_for::<members::TokenResponse>();
    generator.subschema_for::<members::Overview>();
    generator.subschema_for::<members::Member>();
    generator.subschema_for::<members::Endpoint>();
    generator.subschema_for::<members::Revocation>();
    generator.subschema_for::<members::RevocationRequest>();
    generator.subschema_for::<members::CaStatus>();
    generator.subschema_for::<members::AuditEntry>();
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(route.query.iter().map(
        |(name, meaning)| json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } }),
    ));
    let mut operation = json!({
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": success(route.response),
            "default": { "description": "Refused or failed.", "content": { "application/json": { "schema": reference("ErrorBody") } } },
        },
    });
    if !route.request.is_empty() {
        operation["requestBody"] = request(route.request);
    }
    if route.authenticated {
        operation["security"] = json!([{ "adminToken": [] }]);
    }
    operation
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn success(response: &str) -> Value {
    let (media, schema) = match response {
        "" => return json!({ "description": "Done." }),
        "text" => ("text/plain", json!({ "type": "string" })),
        "resource" => ("application/json", reference("Resource")),
        name => match name.split_once(':') {
            Some(("list", item)) => ("application/json", json!({ "type": "array", "items": reference(item) })),
            Some((_, line)) => ("application/x-ndjson", reference(line)),
            None => ("application/json", reference(name)),
        },
    };
    json!({ "description": "Done.", "content": { media: { "schema": schema } } })
}

fn request(name: &str) -> Value {
    let content = match name {
        "text" => json!({
            "application/yaml": { "schema": { "type": "string", "maxLength": MAX_BODY } },
            "application/json": { "schema": reference("Resource") },
        }),
        name => json!({ "application/json": { "schema": reference(name) } }),
    };
    json!({ "required": true, "content": content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_resolves() {
        let document = document("0", vec![("Service".into(), json!({ "type": "object" }))]);
        let text = document.to_string();
        let mut found = 0;
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name} is not defined");
            found += 1;
        }
        assert!(found > 20, "{found}");
        assert_eq!(document["paths"]["/api/v1/tokens"]["post"]["security"], json!([{ "adminToken": [] }]));
        assert!(document["paths"]["/healthz"]["get"].get("security").is_none());
    }
}
