"""Given this history, this catalogue and these channels: what is said, of which products, and by which channel."""

from customers import SmallShop, later, ms, playbook

from worker.recall.policy.catalog import Catalog, Change

DAY = 86_400_000


def play(name, kind, opening, rungs, **fields):
    return {"name": name, "kind": kind, "opening": opening, "rungs": rungs, "template": f"{name}-template", **fields}


USUAL = play("usual", "usual_item", ["rhythm"], ["in_app", "push", "email"])
COMEBACK = play("comeback", "comeback", ["silence"], ["push", "email"])
MEMORY = play("memory", "memory", ["silence", "rhythm"], ["email"])
ARRIVALS = play("arrivals", "new_arrivals", ["silence"], ["email"])


def catalog(*changes):
    catalog = Catalog()
    for product, date, fields in changes:
        catalog.put(Change(product, ms(date), **fields))
    return catalog


def shop(*plays, products=(), **settings):
    return SmallShop(playbook(plays=list(plays)), catalog=catalog(*products), **settings)


def drinks_tea_weekly(shop, user="ann", first="2025-01-06", times=8):
    """Let a user order tea every week; return the time of the last order."""
    for n in range(times):
        shop.orders(user, later(first, days=7 * n), f"{user} {n}", 40, products=["tea"])
    return later(first, days=7 * (times - 1))


def told(shop, user="ann"):
    """Return what was sent: play, channel, variables."""
    return [
        (command["action"]["play"], command["delivery"]["channel"], command["action"]["variables"])
        for command in shop.commands(user)
    ]


def falls_silent(shop, user="ann", until="2025-06-01"):
    """Let a user order twice, save a product, and be gone."""
    shop.orders(user, "2025-01-06", "1", 150, products=["tea"])
    shop.orders(user, "2025-01-20", "2", 150, products=["tea"])
    shop.does(user, "2025-01-21", "Product Added to Wishlist", product_id="pot", category="home", price=40)
    shop.tick(until)


def test_your_usual_is_back_where_the_rhythm_broke():
    products = [("tea", "2025-02-25", {"stock": 0, "price_minor": 450}), ("tea", "2025-03-03", {"stock": 20})]
    tea = shop(USUAL, MEMORY, products=products)
    last = drinks_tea_weekly(tea)
    for day in range(1, 21):
        tea.tick(later(last, days=day))
    assert told(tea)[:1] == [
        (
            "usual",
            "in_app",
            {
                "products": [
                    {"product": "tea", "price": {"amount": "4.50", "currency": "EUR"}, "here_since": "2025-03-03"}
                ]
            },
        )
    ]
    (command, *_) = tea.commands("ann")
    assert last + 7 * DAY < ms(command["issued_at"][:-1]) < last + 14 * DAY
    assert command["reason"]["trigger"] == "rhythm"


def test_where_the_shop_knows_nothing_of_the_usual_product_another_play_speaks():
    nothing = shop(USUAL, MEMORY)
    last = drinks_tea_weekly(nothing)
    for day in range(1, 21):
        nothing.tick(later(last, days=day))
    assert [(name, channel) for name, channel, _ in told(nothing)] == [("memory", "email")]


CHEAPER = [("pot", "2025-01-01", {"price_minor": 4000}), ("pot", "2025-03-01", {"price_minor": 3000})]


def test_a_saved_product_that_became_cheaper_calls_a_silent_user_back():
    cheaper = shop(COMEBACK, MEMORY, products=CHEAPER)
    falls_silent(cheaper)
    ((name, channel, variables),) = told(cheaper)
    assert (name, channel) == ("comeback", "push")
    assert variables["products"][0]["price_when_saved"]["amount"] == "40.00"
    assert variables["products"][0]["price"]["amount"] == "30.00"


def test_a_product_that_was_bought_since_is_not_spoken_of():
    bought = shop(COMEBACK, products=CHEAPER)
    bought.does("ann", "2025-01-05", "Product Added to Wishlist", product_id="pot", category="home", price=40)
    bought.orders("ann", "2025-01-06", "1", 150, products=["pot"])
    bought.orders("ann", "2025-01-20", "2", 150, products=["tea"])
    bought.tick("2025-06-01")
    assert told(bought) == []
    assert bought.decisions("ann")[0] == ("suppressed", "nothing to say")


def test_a_price_that_falls_after_the_silence_came_too_late():
    later_on = shop(
        COMEBACK, products=[("pot", "2025-01-01", {"price_minor": 4000}), ("pot", "2025-05-01", {"price_minor": 1})]
    )
    falls_silent(later_on)
    assert told(later_on) == []


def test_without_the_app_the_next_rung_is_taken_and_what_was_passed_over_is_recorded():
    gone = shop(COMEBACK, products=CHEAPER)
    falls_silent(gone, until="2025-01-22")
    gone.does("ann", "2025-01-22T12:00", "Application Uninstalled")
    gone.tick("2025-06-01")
    assert [(name, channel) for name, channel, _ in told(gone)] == [("comeback", "email")]
    (decision,) = [value for value in gone.of("recall-decisions", "ann") if value["outcome"] == "sent"]
    assert decision["passed_over"] == [{"channel": "push", "reason": "unreachable"}]


def test_an_app_that_is_opened_again_reaches_the_user_again():
    back = shop(COMEBACK, products=CHEAPER)
    falls_silent(back, until="2025-01-22")
    back.does("ann", "2025-01-22T12:00", "Application Uninstalled")
    back.does("ann", "2025-01-23T12:00", "Application Opened")
    back.tick("2025-06-01")
    assert [(name, channel) for name, channel, _ in told(back)] == [("comeback", "push")]


def test_to_open_the_app_postpones_the_silence_and_to_lose_it_does_not():
    def silent_since(event):
        app = shop(COMEBACK, products=CHEAPER)
        app.orders("ann", "2025-01-06", "1", 150, products=["tea"])
        app.orders("ann", "2025-01-20", "2", 150, products=["tea"])
        app.does("ann", "2025-02-01", event)
        app.tick("2025-06-01")
        return [change["at"] for change in app.of("tier-changes", "ann") if change["to_tier"] == "silent"]

    assert silent_since("Application Opened") == ["2025-04-02T00:00:00.000Z"]
    assert silent_since("Application Uninstalled") == ["2025-03-21T00:00:00.000Z"]


def test_an_e_mail_that_bounced_before_leaves_e_mail_alone_until_there_is_a_new_address():
    def reached(*, new_address):
        bounced = shop(MEMORY)
        bounced.hears("ann", "2025-01-10", "bounced", channel="email")
        if new_address:
            bounced.says("ann", "2025-01-11", consent={"email": {"marketing": True}})
        falls_silent(bounced)
        return bounced.decisions("ann")[0]

    assert reached(new_address=False) == ("suppressed", "unreachable")
    assert reached(new_address=True) == ("sent", "sent")


def test_new_arrivals_are_those_since_the_user_was_last_there():
    products = [
        ("old", "2025-01-10", {"category": "shoes", "arrived_at": ms("2025-01-10")}),
        ("new", "2025-03-10", {"category": "shoes", "arrived_at": ms("2025-03-10")}),
    ]
    fresh = shop(ARRIVALS, products=products)
    falls_silent(fresh)
    ((_, _, variables),) = told(fresh)
    assert [product["product"] for product in variables["products"]] == ["new"]


def test_points_that_expire_are_told_while_they_are_there():
    def speaks_of(points):
        badge = shop(play("badge", "points_expiry", ["silence"], ["in_app"]))
        badge.says("ann", "2025-01-05", points=points, points_expire_at="2025-04-10T00:00:00Z")
        falls_silent(badge)
        return [variables for _, _, variables in told(badge)]

    assert speaks_of(120) == [{"points": 120, "expire_on": "2025-04-10", "days_left": 19}]
    assert speaks_of(0) == []


def test_a_catalogue_that_is_written_ahead_gives_the_same_as_one_that_was_there_all_along():
    whole = shop(COMEBACK, MEMORY, products=CHEAPER)
    growing = shop(COMEBACK, MEMORY, products=CHEAPER[:1])
    for one in (whole, growing):
        falls_silent(one, until="2025-02-28T23:00")
    (product, date, fields) = CHEAPER[1]
    growing.customers._catalog.put(Change(product, ms(date), **fields))
    for one in (whole, growing):
        one.tick("2025-06-01")
    assert whole.said == growing.said
    assert told(whole)
