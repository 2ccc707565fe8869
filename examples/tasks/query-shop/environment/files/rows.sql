insert into customers values (1, 'david'), (2, 'elena'), (3, 'felix');
insert into orders values (1, 2, 30), (2, 1, 90), (3, 2, 15), (4, 3, 20), (5, 2, 10), (6, 1, 5);
