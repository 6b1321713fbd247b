//! A log and its database moved as one file: positions, times, cursors and dead letters stay.

use std::sync::Arc;

use bus::transfer::{self, TransferError};
use bus::{Failure, Retention, Seq};

use crate::house::{House, event, scripted};

async fn exported(house: &House) -> Vec<u8> {
    let mut file = Vec::new();
    transfer::export(&house.db, house.log.as_ref(), &mut file, &|_| {}).await.unwrap();
    file
}

async fn import(house: &House, file: &[u8]) -> Result<(), TransferError> {
    let contents = transfer::check(&mut &*file)?;
    transfer::import(&house.db, house.log.as_ref(), &mut &*file, &contents, &|_| {}).await
}

/// A house in which events were pruned, one failed for good, and a consumer stands at the end.
async fn lived_in() -> House {
    let house = House::embedded().await;
    for n in 0..40 {
        house.publish(if n % 4 == 0 { "old" } else { "a" }, "k", n).await;
    }
    let fails = |event: &schemas::Event, _| {
        let numbered: crate::house::Numbered = event.data_as()?;
        if numbered.n == 7 {
            Err(Failure::permanent("seven; it\u{2019}s \\ 'odd'"))
        } else {
            Ok(())
        }
    };
    let running = house.run(vec![scripted(fails)]).await;
    house.settled("scripted").await;
    running.stop().await;
    let all = [Retention { types: "old".parse().unwrap(), max_age: None, max_bytes: Some(0) }];
    house.log.prune(&all, Seq::MAX, house.clock.now()).await.unwrap();
    for n in 40..50 {
        house.publish("a", "later", n).await;
    }
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_exported_is_the_same_where_it_is_imported_and_goes_on_there() {
    let from = lived_in().await;
    let file = exported(&from).await;
    let to = House::start().await;
    import(&to, &file).await.unwrap();

    let (before, after) = (from.events().await, to.events().await);
    assert!(before == after, "{} events of {}", after.len(), before.len());
    assert_eq!(to.dead_letters("scripted").await.len(), 1);
    assert_eq!(from.log.state().await.unwrap().last, to.log.state().await.unwrap().last);
    let (gone_before, gone) = (from.log.pruned_through().await, to.log.pruned_through().await);
    assert_eq!(gone_before.unwrap(), gone.unwrap());
    let middle = before[before.len() / 2].recorded_at;
    let found = to.log.position_at(middle).await.unwrap();
    assert_eq!(found, from.log.position_at(middle).await.unwrap());

    let running = to.run(vec![scripted(|_, _| Ok(()))]).await;
    to.publish("a", "later", 50).await;
    to.settled("scripted").await;
    assert_eq!(to.effects("later").await, (40..=50).collect::<Vec<_>>(), "from the cursor on");
    assert_eq!(to.effects("k").await, from.effects("k").await, "and nothing again");
    running.stop().await;

    let again = House::embedded().await;
    import(&again, &exported(&to).await).await.unwrap();
    assert!(again.events().await == to.events().await, "there and back");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_or_not_wanted_is_refused_before_anything_is_written() {
    let from = lived_in().await;
    let file = exported(&from).await;
    let to = House::start().await;
    let cut = &file[..file.len() / 2];
    assert!(matches!(import(&to, cut).await, Err(TransferError::Form(_))));
    let mut changed = file.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert!(matches!(import(&to, &changed).await, Err(TransferError::Form(_))));
    assert!(matches!(import(&to, b"{}\n").await, Err(TransferError::Form(_))));

    to.log.publish(event("a", "k", 1)).await.unwrap();
    let refused = import(&to, &file).await;
    assert!(matches!(refused, Err(TransferError::NotEmpty(_))), "{refused:?}");

    let running = from.run(vec![scripted(|_, _| Ok(()))]).await;
    let mut out = Vec::new();
    let log = Arc::clone(&from.log);
    let refused = transfer::export(&from.db, log.as_ref(), &mut out, &|_| {}).await;
    assert!(matches!(refused, Err(TransferError::Running(1))), "{refused:?}");
    running.stop().await;
}
