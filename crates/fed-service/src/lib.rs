//! fed-service
