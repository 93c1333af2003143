//! Services in the store: where they begin, who has their leases, and commands for the holder.

use super::*;

#[test]
fn a_new_service_begins_where_it_wants_to_and_only_once() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(5);
        let mut known = |from| {
            let services = [service("all", Some(1)), service("late", from)];
            outbox.writer.register(&services, NOON).expect("registered")
        };
        let (first, again) = (known(Some(4)), known(Some(1)));
        assert_eq!(first, again);
        let job = outbox.last_job();
        assert_eq!((job.id, job.job.kind, job.job.service), (1, ReplayJobKind::Replay, first[1].id));
        assert_eq!((job.job.from, job.job.through), (4, 5));
        assert_eq!(outbox.step(NOON), [renewed(2, 0)]);
        // A service that begins with new events gets no stored ones.
        outbox.writer.register(&[service("later", Some(6))], NOON).expect("registered");
        assert_eq!(outbox.last_job().id, 1);
        let state = Registered { id: first[1].id, paused: Some("why".into()), breaker: Some("{}".into()) };
        let change = ServiceChange::Kept { state, applied: 0 };
        outbox.commit(vec![Write::ChangeService(change)], NOON);
        let known = outbox.writer.register(&[service("late", None)], NOON).expect("registered");
        assert_eq!((known[0].paused.as_deref(), known[0].breaker.as_deref()), (Some("why"), Some("{}")));
    });
}

#[test]
fn commands_wait_for_who_holds_the_service_until_they_are_obeyed() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let service = outbox.all;
        let change = |outbox: &mut Outbox, change| {
            outbox.commit(vec![Write::ChangeService(change)], NOON);
            outbox.writer.lease_service(service, &LeaseName::service("all"), outbox.node.seeker()).expect("held")
        };
        let ask = |command: &str| ServiceChange::Asked { service, command: command.into() };
        let mut held = ["pause", "open", "pause"].map(|command| change(&mut outbox, ask(command)))[2].clone();
        let names = |held: &LeasedService| held.commands.iter().map(|(_, command)| command.clone()).collect::<Vec<_>>();
        assert_eq!(names(&held), ["open", "pause"], "each once, the last one last");
        let (applied, _) = held.commands[0];
        held.state.paused = Some("why".into());
        let after = change(&mut outbox, ServiceChange::Kept { state: held.state.clone(), applied });
        assert_eq!((names(&after), &after.state), (vec!["pause".to_owned()], &held.state));
        let last = after.commands[0].0;
        let none = change(&mut outbox, ServiceChange::Kept { state: held.state, applied: last });
        assert_eq!(none.commands, []);
        assert!(change(&mut outbox, ask("resume")).commands[0].0 > last, "a number is never used again");
    });
}
