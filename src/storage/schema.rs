//! The tables, which are the same on both backends. The migrations explain their columns.

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

diesel::table! {
    services (id) {
        id -> SmallInt,
        name -> Text,
        paused -> Nullable<Text>,
        breaker -> Nullable<Text>,
        created_at -> BigInt,
    }
}

diesel::table! {
    deliveries (event_id, service) {
        event_id -> BigInt,
        service -> SmallInt,
        state -> SmallInt,
        lane -> SmallInt,
        due_at -> BigInt,
        key -> Nullable<Text>,
        attempts -> Integer,
        spent -> Integer,
        finished_at -> Nullable<BigInt>,
        took_us -> Nullable<BigInt>,
        http_status -> Nullable<SmallInt>,
        reason -> Nullable<Text>,
    }
}

diesel::table! {
    delivery_attempts (event_id, service, attempt) {
        event_id -> BigInt,
        service -> SmallInt,
        attempt -> Integer,
        finished_at -> BigInt,
        took_us -> BigInt,
        http_status -> Nullable<SmallInt>,
        reason -> Text,
        answer -> Nullable<Text>,
    }
}

diesel::table! {
    delivery_jobs (id) {
        id -> BigInt,
        kind -> Text,
        service -> SmallInt,
        patterns -> Text,
        next_id -> BigInt,
        through_id -> BigInt,
        touched -> BigInt,
        state -> Text,
        created_at -> BigInt,
        updated_at -> BigInt,
    }
}

diesel::table! {
    service_commands (id) {
        id -> BigInt,
        service -> SmallInt,
        command -> Text,
    }
}

diesel::table! {
    schedules (id) {
        id -> Text,
        due_at -> BigInt,
        created_at -> BigInt,
        place -> BigInt,
        name -> Text,
        payload -> Text,
        source -> Text,
        priority -> SmallInt,
        key -> Nullable<Text>,
        metadata -> Nullable<Text>,
        traceparent -> Nullable<Text>,
    }
}

diesel::table! {
    durables (service) {
        service -> SmallInt,
        name -> Text,
        pattern -> Text,
        filter -> Nullable<Text>,
        epoch -> BigInt,
        floor -> BigInt,
        ack_wait_us -> BigInt,
        max_in_flight -> Integer,
        max_deliver -> Integer,
        created_at -> BigInt,
    }
}

diesel::table! {
    durable_marks (service, event_id) {
        service -> SmallInt,
        event_id -> BigInt,
        deliveries -> Integer,
    }
}

diesel::allow_tables_to_appear_in_same_query!(events, deliveries, delivery_attempts, services, durables);

diesel::table! {
    revocations (kind, value) {
        kind -> Text,
        value -> Text,
        revoked_at -> BigInt,
    }
}

diesel::table! {
    clock_turns (first_id) {
        first_id -> BigInt,
        created_at -> BigInt,
    }
}

diesel::table! {
    log (one) {
        one -> SmallInt,
        id -> Text,
        key -> Text,
    }
}

diesel::table! {
    log_gaps (first_id) {
        first_id -> BigInt,
        width -> BigInt,
    }
}

diesel::table! {
    nodes (name) {
        name -> Text,
        generation -> BigInt,
        expires_at -> BigInt,
        started_at -> BigInt,
        seen_at -> BigInt,
        version -> Text,
        url -> Text,
        last_id -> BigInt,
        is_draining -> Bool,
    }
}

diesel::table! {
    leases (name) {
        name -> Text,
        node -> Text,
        node_generation -> BigInt,
        generation -> BigInt,
        wanted_by -> Nullable<Text>,
    }
}

diesel::table! {
    positions (name) {
        name -> Text,
        position -> Text,
    }
}

diesel::table! {
    entities (kind, key) {
        #[sql_name = "type"]
        kind -> Text,
        key -> Text,
        version -> BigInt,
        value -> Nullable<Text>,
        updated_at -> BigInt,
        slot -> Integer,
        sum -> BigInt,
    }
}

diesel::table! {
    entity_types (kind) {
        #[sql_name = "type"]
        kind -> Text,
        count -> BigInt,
    }
}

diesel::table! {
    syncs (service, kind) {
        service -> SmallInt,
        #[sql_name = "type"]
        kind -> Text,
        state -> Text,
        as_of -> Nullable<BigInt>,
        lag -> Nullable<BigInt>,
        checked_at -> Nullable<BigInt>,
        next_check_at -> Nullable<BigInt>,
        error -> Nullable<Text>,
        missing -> BigInt,
        stale -> BigInt,
        extra -> BigInt,
        ahead -> BigInt,
    }
}

diesel::table! {
    heard_events (event_id) {
        event_id -> BigInt,
    }
}

diesel::table! {
    sent_events (uuid) {
        uuid -> Binary,
        event_id -> BigInt,
    }
}

diesel::table! {
    calls (id) {
        id -> BigInt,
        service -> SmallInt,
        owner -> Text,
        tag -> Text,
        lane -> SmallInt,
        key -> Nullable<Text>,
        request -> Text,
        policy -> Text,
        due_at -> BigInt,
        expires_at -> Nullable<BigInt>,
        state -> SmallInt,
        attempts -> Integer,
        may_be_done -> SmallInt,
        last -> Nullable<Text>,
        ended_at -> Nullable<BigInt>,
        place -> Nullable<BigInt>,
    }
}

diesel::table! {
    call_ends (only_row) {
        only_row -> SmallInt,
        last -> BigInt,
    }
}

diesel::table! {
    sagas (id) {
        id -> Text,
        saga -> Text,
        version -> BigInt,
        correlation -> Text,
        trigger -> Text,
        made_at -> BigInt,
        start_key -> Nullable<Text>,
        state -> SmallInt,
        holds -> SmallInt,
        paused -> SmallInt,
        started_at -> Nullable<BigInt>,
        updated_at -> BigInt,
        due_at -> Nullable<BigInt>,
        ended_at -> Nullable<BigInt>,
        length -> BigInt,
    }
}

diesel::table! {
    saga_counts (saga, state) {
        saga -> Text,
        state -> SmallInt,
        count -> BigInt,
    }
}

diesel::table! {
    saga_definitions (saga, version) {
        saga -> Text,
        version -> BigInt,
        text -> Text,
    }
}

diesel::table! {
    saga_declarations (saga, node) {
        saga -> Text,
        node -> Text,
        version -> BigInt,
        seen_at -> BigInt,
    }
}

diesel::table! {
    saga_names (saga) {
        saga -> Text,
        since -> BigInt,
    }
}

diesel::table! {
    system_state (only_row) {
        only_row -> SmallInt,
        state -> Text,
        since -> BigInt,
        reason -> Nullable<Text>,
        transition -> Nullable<Text>,
        change -> Nullable<Text>,
    }
}

diesel::table! {
    event_types (name) {
        name -> Text,
        version -> BigInt,
        schema -> Text,
        settings -> Nullable<Text>,
        generation -> BigInt,
        changed_at -> BigInt,
    }
}

diesel::table! {
    event_type_versions (name, version) {
        name -> Text,
        version -> BigInt,
        schema -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    event_type_files (name, digest) {
        name -> Text,
        digest -> Text,
    }
}
