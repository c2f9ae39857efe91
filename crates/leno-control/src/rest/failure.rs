//! An answer that is not a success.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use leno_api::{ErrorBody, ErrorReason};

use crate::apply::error;
use crate::ca::AuthorityError;
use crate::records::RecordError;
use crate::tokens::TokensError;

/// Status and body of a refusal.
#[derive(Debug)]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// What went wrong.
    pub body: ErrorBody,
}

impl Failure {
    /// A failure without diagnostics.
    pub fn new(status: StatusCode, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self { status, body: error(reason, message) }
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorReason::NotFound, message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorReason::BadRequest, message)
    }

    /// 500; the inside is logged, not shown.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "a request failed");
        let message = "the control plane failed; see its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorReason::Internal, message)
    }
}

/// The HTTP status of a reason.
#[must_use]
pub fn status_of(reason: ErrorReason) -> StatusCode {
    match reason {
        ErrorReason::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorReason::ForbiddenHost => StatusCode::FORBIDDEN,
        ErrorReason::NotFound => StatusCode::NOT_FOUND,
        ErrorReason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorReason::Conflict => StatusCode::CONFLICT,
        ErrorReason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorReason::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorReason::BadRequest => StatusCode::BAD_REQUEST,
        ErrorReason::Compacted => StatusCode::GONE,
        ErrorReason::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorReason::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorReason::Draining => StatusCode::SERVICE_UNAVAILABLE,
        ErrorReason::Internal | ErrorReason::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self { status: status_of(body.reason), body }
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::internal(&error)
    }
}

impl From<TokensError> for Failure {
    fn from(error: TokensError) -> Self {
        match error {
            TokensError::Request(message) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorReason::Invalid, message),
            TokensError::Record(error) => error.into(),
        }
    }
}

impl From<AuthorityError> for Failure {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Request(message) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorReason::Invalid, message)
            }
            AuthorityError::Ca(leno_identity::CaError::Rotation(error)) => {
                Self::new(StatusCode::CONFLICT, ErrorReason::Conflict, error.to_string())
            }
            other => Self::internal(&other),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 11.6.1: a 401 names its scheme.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
