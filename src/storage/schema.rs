//! The tables, as both backends have them. See `migrations/` for their meaning.

diesel::table! {
    events (id) {
        id -> BigInt,
        name -> Text,
        payload -> Text,
        source -> Text,
        priority -> SmallInt,
        key -> Nullable<Text>,
        metadata -> Nullable<Text>,
        traceparent -> Nullable<Text>,
        created_at -> BigInt,
        log_offset -> BigInt,
    }
}

diesel::table! {
    idempotency_keys (key) {
        key -> Text,
        fingerprint -> Binary,
        first_id -> BigInt,
        last_id -> BigInt,
        created_at -> BigInt,
    }
}
