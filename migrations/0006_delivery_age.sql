-- Old deliveries are found by their ids, which begin with the time of the event.
drop index webhook_delivery_age;
