"""How good the model is: weekly predictions on public data, beside those of peers, with intervals. A driver.

The product's own rows give the features and its own trainer and scorer the predictions; labels come straight from the
log. Lateness is 0 here, and all users have the same weekly midnight: the log knows no late records.
"""
