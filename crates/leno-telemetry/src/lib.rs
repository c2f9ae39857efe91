//! Metrics, histograms, access records, trace context.
