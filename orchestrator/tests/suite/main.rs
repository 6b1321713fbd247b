//! Definitions, the planner in a simulated world, and the engine on a database.
#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test right there")]

mod barriers;
mod by_hand;
mod definitions;
mod locks;
mod mistakes;
mod random_runs;
mod rust_sagas;
mod saga;
mod set_aside;
mod shards;
mod unfilled;
mod walks;
mod world;

/// The saga of the guide: a charge, stock and delivery together, an approval, an announcement.
const PLACE_ORDER: &str = "
saga: place-order
deadline: 48h
steps:
  - step: charge-payment
    post: http://payments/charges
    body: { order: '{{ input.order_id }}', amount: '{{ input.total }}' }
    undo: { post: http://payments/refunds, body: { charge: \"{{ steps['charge-payment'].output.id }}\" } }
    retry: { attempts_max: 3, backoff_min: 200ms, backoff_max: 30s }
    timeout: 10s
  - together:
      - step: reserve-stock
        post: http://stock/reservations
        body: { items: '{{ input.items }}' }
        undo: { post: http://stock/releases, body: { reservation: \"{{ steps['reserve-stock'].output.id }}\" } }
      - step: book-delivery
        when: '{{ input.ship }}'
        put: http://delivery/bookings
        undo: { delete: http://delivery/bookings }
  - step: approve
    wait_for: { signal: approved, timeout: 24h }
  - step: confirm
    publish: com.acme.order.confirmed
    body: { order: '{{ input.order_id }}' }
    no_undo: an announcement cannot be taken back
output: { charge: \"{{ steps['charge-payment'].output.id }}\" }
";
