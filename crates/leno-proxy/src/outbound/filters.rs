//! What a route changes on a request and its answer. Rule first, then backend; answers the other way round.

use bytes::Bytes;
use leno_http::{Body, Refusal, RequestHead, Response, ResponseHead};
use leno_model::Reason;
use leno_plan::{Backend, Filter, RouteChoice};

use crate::look::{Edit, Look, view};

/// Applies request filters in order. `Some` is a redirect: the request ends here.
pub fn on_request(
    filters: &[Filter],
    choice: &RouteChoice<'_>,
    head: &mut RequestHead,
) -> Result<Option<Response>, Refusal> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edit) => edit.apply(&mut Edit(&mut head.fields)),
            Filter::ResponseHeaders(_) => {}
            Filter::Redirect(redirect) => {
                let look = Look(&head.fields);
                // Local callers reach the mesh by plaintext HTTP; there is no other scheme on this side.
                let location = redirect
                    .location(&view(head, &look), "http", choice.prefix_elements())
                    .ok_or_else(|| Refusal::new(Reason::MalformedRequest, "no host to redirect to"))?;
                let mut answer = ResponseHead::new(redirect.status);
                answer.fields.append("location", &location);
                return Ok(Some(Response::new(answer, Body::Empty)));
            }
            Filter::Rewrite(rewrite) => {
                let look = Look(&head.fields);
                let request = view(head, &look);
                let target = rewrite.target(request.path, request.query, choice.prefix_elements());
                if let Some(target) = target {
                    head.target = Bytes::from(target);
                }
                if let Some(hostname) = &rewrite.hostname {
                    head.authority = Bytes::copy_from_slice(hostname.as_bytes());
                }
            }
        }
    }
    Ok(None)
}

/// Applies response filters: the backend's, which is nearer to the answer, then the rule's.
pub fn on_response(rule: &[Filter], backend: &Backend, head: &mut ResponseHead) {
    for filter in backend.filters.iter().chain(rule) {
        if let Filter::ResponseHeaders(edit) = filter {
            edit.apply(&mut Edit(&mut head.fields));
        }
    }
}
