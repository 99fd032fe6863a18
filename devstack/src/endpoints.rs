use serde::{Deserialize, Serialize};

/// Where the servers and services of a stack are, with their credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// The gate; empty in a stack of servers only.
    pub edge_url: String,
    pub redis_rest_url: String,
    pub redis_rest_token: String,
    pub kafka_bootstrap: String,
    pub kafka_rest_url: String,
    pub kafka_rest_token: String,
    /// With the password; empty in a stack without a database.
    pub database_url: String,
    pub code_secret: String,
    /// The issuer's health and metrics.
    pub issuer_url: String,
}

impl Endpoints {
    /// The settings of a gate in this stack, except how it authenticates users.
    #[must_use]
    pub fn gate_vars(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("UPSTASH_REDIS_REST_URL", &self.redis_rest_url),
            ("UPSTASH_REDIS_REST_TOKEN", &self.redis_rest_token),
            ("KAFKA_REST_URL", &self.kafka_rest_url),
            ("KAFKA_REST_TOKEN", &self.kafka_rest_token),
            ("COUPON_CODE_SECRET", &self.code_secret),
            ("ENVIRONMENT", "development"),
        ]
    }

    /// The environment of `issuer`.
    #[must_use]
    pub fn issuer_env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.database_url.clone()),
            ("KAFKA_BOOTSTRAP", self.kafka_bootstrap.clone()),
            ("UPSTASH_REDIS_REST_URL", self.redis_rest_url.clone()),
            ("UPSTASH_REDIS_REST_TOKEN", self.redis_rest_token.clone()),
            ("COUPON_CODE_SECRET", self.code_secret.clone()),
        ]
    }
}
